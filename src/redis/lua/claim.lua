#!lua
-- Takes over entries that were given out and are not settled: of other consumers when they have been idle for
-- the claim time, of this consumer what it lost with a connection or a process. XAUTOCLAIM would tell neither
-- whose they were nor how often they had been given out; XPENDING does. One call is one piece of a sweep.
--
-- An entry that changes hands counts one delivery more. Given out twice or more it is suspect: it has to run
-- alone in its batch, and from the third time on alone in the whole engine. One that was given out as often
-- as is allowed is handed over with a count above that, to be dead-lettered; so is one that was deleted from
-- the stream, without fields. Neither is claimed: whoever is first settles it.
--
-- KEYS[1] input stream   KEYS[2] its ledger
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] least idle time of others' entries, ms  ARGV[4] of its own
-- ARGV[5] id after which to go on; '' from the oldest  ARGV[6] entries at most
-- ARGV[7] entries at most that have to run alone in their batch
-- ARGV[8] 1: also one that has to run alone in the engine, by itself; 0: none is possible now
-- ARGV[9] deliveries allowed  ARGV[10] its own entries that have been idle for longer than this, ms, were
--   given to a process that had the name before: they count one delivery more, too
--
-- A suspect that has to wait is stepped over, for what else is on its page, and the sweep goes on there the
-- next time.
--
-- The ledger keeps the latest time seen (`<group>:time`). When the server's clock was set back, entries would
-- not grow idle before it has caught up; so all pending ones begin to age anew, a page per call (`ageing` is
-- the last one that does).
--
-- Returns {{head, entries}} like XREADGROUP, each entry {id, fields, deliveries}; head is 'epoch after',
-- where `after` is the id to go on after, or '-' when the sweep has reached the end.
local input, ledger, group, consumer = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local idleOthers, idleOwn = tonumber(ARGV[3]), tonumber(ARGV[4])
local after, rowsMax, aloneMax = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local exclusiveAllowed, deliveriesMax, ageMs = ARGV[8] == '1', tonumber(ARGV[9]), tonumber(ARGV[10])
local field = function(name) return group .. ':' .. name end
-- Work of one call: pages of XPENDING, entries looked at.
local PAGE, LOOKED_AT_MAX = 100, 1000
local AGEING_PAGE, CLOCK_MS = 500, 1000

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', ledger, field('epoch'), field('time'), field('ageing'))
local epoch, ageing = known[1], known[3]
if known[2] and now + CLOCK_MS < tonumber(known[2]) then ageing = '0' end
if ageing then
  local page = redis.call('XPENDING', input, group, '(' .. ageing, '+', AGEING_PAGE)
  for _, found in ipairs(page) do
    -- XCLAIM would drop one that was deleted from the stream.
    if redis.call('XRANGE', input, found[1], found[1])[1] then
      redis.call('XCLAIM', input, group, found[2], 0, found[1], 'TIME', now, 'JUSTID')
    end
  end
  ageing = #page == AGEING_PAGE and page[#page][1]
  if not ageing then redis.call('HDEL', ledger, field('ageing')) end
end

local entries, alone, exclusive, lookedAt, full, ended = {}, 0, false, 0, false, false
-- Id after which the first one lies that has to wait.
local waiting

-- Hands one pending entry over; false when it has to wait for a later call.
local function take(id, owner, idle, deliveries)
  local count = deliveries
  if owner ~= consumer or idle > ageMs or count == 0 then count = count + 1 end
  local givenUp = count > deliveriesMax
  if not givenUp and count >= 2 then
    if alone >= aloneMax or exclusive then return false end
    if count >= 3 then
      if not exclusiveAllowed or alone > 0 then return false end
      exclusive = true
    end
    alone = alone + 1
  end
  local entry = redis.call('XRANGE', input, id, id)[1]
  -- Its own, looked for after a connect, may be in hand, and then goes on ageing.
  if entry and not givenUp and (owner ~= consumer or count ~= deliveries or idleOwn > 0) then
    redis.call('XCLAIM', input, group, consumer, 0, id, 'RETRYCOUNT', count, 'JUSTID')
  end
  entries[#entries + 1] = { id, entry and entry[2] or {}, count }
  return true
end

while not (full or ended or waiting) and lookedAt < LOOKED_AT_MAX do
  local from = after == '' and '-' or '(' .. after
  local page = redis.call('XPENDING', input, group, 'IDLE', math.min(idleOthers, idleOwn), from, '+', PAGE)
  ended = #page < PAGE
  for _, found in ipairs(page) do
    local id, owner, idle, deliveries = unpack(found)
    lookedAt = lookedAt + 1
    if idle >= (owner == consumer and idleOwn or idleOthers) then
      if #entries >= rowsMax then
        full, ended = true, false
        break
      end
      if not take(id, owner, idle, deliveries) then waiting = waiting or after end
    end
    after = id
  end
end
if waiting then after, ended = waiting, false end

if not epoch then
  epoch = string.format('%d', now)
  redis.call('HSET', ledger, field('epoch'), epoch)
elseif #entries > 0 then
  epoch = redis.call('HINCRBY', ledger, field('epoch'), 1)
end
redis.call('HSET', ledger, field('time'), string.format('%d', now))
if ageing then redis.call('HSET', ledger, field('ageing'), ageing) end
return { { epoch .. ' ' .. (ended and '-' or after == '' and '0' or after), entries } }
