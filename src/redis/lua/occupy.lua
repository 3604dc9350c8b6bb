#!lua flags=allow-oom
-- Holds a heartbeat key: takes it where it is free, keeps it where it is held with this token already, and
-- takes it over from the one other token that may be replaced. It expires unless this is repeated. Allowed
-- while memory is short, so that engines do not lose their names just then.
--
-- KEYS[1] heartbeat key
-- ARGV[1] our token  ARGV[2] milliseconds until it expires
-- ARGV[3] the token of a process known to be dead; '' for none
-- Returns the token that holds the key now: ours, or whose it is.
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] and (ARGV[3] == '' or held ~= ARGV[3]) then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
