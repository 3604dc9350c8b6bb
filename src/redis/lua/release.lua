#!lua flags=allow-oom
-- Gives back what a consumer that stops for good has not settled: all of it becomes so idle that any engine's
-- next claim takes it. This time counts as a delivery only for those that a worker has at this moment: the
-- others have done no harm. A consumer with nothing pending is removed, and the heartbeat
-- with it.
--
-- KEYS[1] input stream   KEYS[2] the consumer's heartbeat key
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] its token  ARGV[4] milliseconds of idleness
-- ARGV[5...] ids that a worker has
-- Returns how many entries were given back; -1 when the name is somebody else's by now, and so is what is
-- pending under it.
local stream, alive, group, consumer, idle = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[4]
local token = redis.call('GET', alive)
if token and token ~= ARGV[3] then return -1 end

local running = {}
for i = 5, #ARGV do running[ARGV[i]] = true end
local PIECE = 1000
local released = 0
local from = '-'
while true do
  local rows = redis.pcall('XPENDING', stream, group, from, '+', PIECE, consumer)
  -- Without the group nothing is pending.
  if rows.err and not rows.err:find('^NOGROUP') then return rows end
  if rows.err or #rows == 0 then break end
  for _, row in ipairs(rows) do
    local id, deliveries = row[1], row[4]
    -- XCLAIM would drop one that was deleted from the stream; it waits for the claim time like a dead
    -- engine's, and gets its outcome then.
    if redis.call('XRANGE', stream, id, id)[1] then
      -- Unless it was given back already, by a call whose answer was lost.
      if not running[id] and row[3] < tonumber(idle) then deliveries = math.max(deliveries - 1, 0) end
      redis.call('XCLAIM', stream, group, consumer, 0, id, 'IDLE', idle, 'RETRYCOUNT', deliveries, 'JUSTID')
    end
  end
  released = released + #rows
  from = '(' .. rows[#rows][1]
end
if released == 0 then redis.pcall('XGROUP', 'DELCONSUMER', stream, group, consumer) end
redis.call('DEL', alive)
return released
