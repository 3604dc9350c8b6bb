#!lua flags=no-writes
-- Reads about dead letters what fits on a line, so that their payloads stay in Redis. A call ends early when
-- it has read a megabyte, so that it never holds up the server for long.
--
-- KEYS[1] dead-letter stream
-- ARGV[1] id to begin with, as XRANGE takes it  ARGV[2] id to end with, both included
-- ARGV[3] letters at most  ARGV[4] 'newest' or 'oldest': which of them comes first
-- Returns where this call ended ('' when nothing is left), then nine per letter: id, bytes, key, model
-- (as the event names it, or ''), source, reason, detail, deliveries ('' where the deadletter script did not
-- write it), number of the input's fields.
local STEP, BYTES_MAX, TEXT_BYTES_MAX, OURS = 16, 1048576, 256, 8
local at, to, left, command = ARGV[1], ARGV[2], tonumber(ARGV[3]), 'XRANGE'
if ARGV[4] == 'newest' then command = 'XREVRANGE' end

local reply, bytesRead = { '' }, 0
local function add(text) reply[#reply + 1] = text end
while true do
  local asked = math.min(STEP, left)
  local page = redis.call(command, KEYS[1], at, to, 'COUNT', asked)
  local last = ''
  for _, entry in ipairs(page) do
    local values, bytes, named = entry[2], 0, {}
    local count = #values
    local ours = count >= OURS and values[count - 7] == 'source' and values[count - 5] == 'reason'
      and values[count - 3] == 'detail' and values[count - 1] == 'deliveries'
    for i, value in ipairs(values) do bytes = bytes + #value end
    -- Of a field given twice the last counts, as in the engine.
    local fields = ours and count - OURS or count
    for i = 1, fields, 2 do
      if values[i] == 'key' or values[i] == 'model' then named[values[i]] = values[i + 1] end
    end
    last = entry[1]
    add(last)
    add(tostring(bytes))
    add((named.key or ''):sub(1, TEXT_BYTES_MAX))
    add((named.model or ''):sub(1, TEXT_BYTES_MAX))
    for i = count - 6, count, 2 do add(ours and values[i] or '') end
    add(tostring(fields / 2))
    bytesRead = bytesRead + bytes
  end
  left = left - #page
  if #page < asked or last == to then return reply end
  if left == 0 or bytesRead >= BYTES_MAX then
    reply[1] = last
    return reply
  end
  at = '(' .. last
end
