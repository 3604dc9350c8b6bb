#!lua flags=allow-oom
-- Gives a heartbeat key back, unless it is somebody else's by now.
--
-- KEYS[1] heartbeat key
-- ARGV[1] our token
-- Returns how many keys were deleted.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
