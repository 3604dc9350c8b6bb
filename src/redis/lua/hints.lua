#!lua flags=allow-oom
-- Writes what producers of a stream should know: how much waits, and how fast they may send. Each engine
-- brings its own part about once a second; here the parts are added up, and those of engines that have fallen
-- silent are dropped, so nobody has to coordinate. Engines of one group share the events, so their rates add
-- up; every group has to take all events, so the slowest group decides. Allowed while memory is short, for
-- just then producers have to be told to stop.
--
-- A part is `state rate served backlog oldest_ms at_ms group`; rate is '-' for no limit. An engine without a
-- limit in a group where others have one has not been at its limit yet, and counts like the mean of them.
--
-- KEYS[1] hints   KEYS[2] the engines' parts   KEYS[3] input stream
-- ARGV[1] group  ARGV[2] consumer
-- ARGV[3] state: ok, slow or stop; or gone: the engine ends, and its part with it
-- ARGV[4] its rate, whole events/s, or '-'  ARGV[5] events/s that it serves  ARGV[6] unread events
-- ARGV[7] age of the oldest of them, ms  ARGV[8] milliseconds after which a part is stale, and all expires
-- Returns {server's Unix time in ms, entries ever added to the stream, -1 without a stream, events/s that the
--   group's other engines serve}
local hints, parts, input = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, state, rate, served, backlog, oldest, STALE_MS = unpack(ARGV)
local call = redis.call

-- include info

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local at = string.format('%d', now)
local added = -1
local kind = call('TYPE', input).ok
if kind == 'stream' then added = info(call('XINFO', 'STREAM', input))['entries-added'] end

-- A stream that several groups read has a part of this engine for each.
local own = consumer .. ' ' .. group
if state == 'gone' then
  call('HDEL', parts, own)
else
  local part = { state, rate, served, backlog, oldest, at, group }
  call('HSET', parts, own, table.concat(part, ' '))
end

local groups, others = {}, 0
local all = call('HGETALL', parts)
for i = 1, #all, 2 do
  local s, r, d, b, o, t, g = all[i + 1]:match('^(%a+) ([%d-]+) (%d+) (%d+) (%d+) (%d+) (%S+)$')
  -- Also one from the future, by a clock that was set back.
  if not s or math.abs(now - t) > tonumber(STALE_MS) then
    call('HDEL', parts, all[i])
  else
    local sum = groups[g] or { going = 0, limited = 0, rate = 0, slow = 0, backlog = 0, oldest = 0 }
    groups[g] = sum
    if s ~= 'ok' then sum.slow = sum.slow + 1 end
    if s ~= 'stop' then
      sum.going = sum.going + 1
      if r ~= '-' then sum.limited, sum.rate = sum.limited + 1, sum.rate + tonumber(r) end
    end
    sum.backlog = math.max(sum.backlog, tonumber(b))
    sum.oldest = math.max(sum.oldest, tonumber(o))
    if g == group and all[i] ~= own then others = others + tonumber(d) end
  end
end

local RANK = { ok = 1, slow = 2, stop = 3 }
local worst, least, unread, age = '', nil, 0, 0
for _, sum in pairs(groups) do
  local says, limit = 'ok', nil
  if sum.slow > 0 then says = 'slow' end
  if sum.going == 0 then
    says, limit = 'stop', 0
  elseif sum.limited > 0 then
    limit = math.floor(sum.rate * sum.going / sum.limited)
  end
  if worst == '' or RANK[says] > RANK[worst] then worst = says end
  if limit and (not least or limit < least) then least = limit end
  unread, age = math.max(unread, sum.backlog), math.max(age, sum.oldest)
end
if worst == '' then
  call('DEL', hints, parts)
else
  local limit = least and string.format('%d', least) or ''
  call('HSET', hints, 'state', worst, 'rate_per_s', limit, 'backlog', string.format('%d', unread),
    'oldest_ms', string.format('%d', age), 'at_ms', at)
  call('PEXPIRE', hints, STALE_MS)
  call('PEXPIRE', parts, STALE_MS)
end
return { now, added, others }
