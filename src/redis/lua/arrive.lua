#!lua flags=allow-oom
-- A committer has a connection, and says so before it settles anything on it. When this server is not the one
-- on which somebody said so last (a failover, a restart: by the replication id, which changes with either),
-- it may have lost what had been delivered. Then entries that it takes for unread may be in somebody's hands
-- all the same, and be read once more: any that is in the stream by now. Up to there, rows are acknowledged
-- one by one (lua/commit.lua).
--
-- KEYS[1] input stream   KEYS[2] its ledger
-- ARGV[1] group
-- Returns 1 when the server is another one, else 0.
local input, ledger = KEYS[1], KEYS[2]
local field = function(name) return ARGV[1] .. ':' .. name end
local history = redis.call('INFO', 'replication'):match('master_replid:(%x+)')
if redis.call('HGET', ledger, field('history')) == history then return 0 end
local info = redis.pcall('XINFO', 'STREAM', input)
-- Without a stream nothing is contested; what else may be in its place, others complain of.
if info.err and not (info.err:find('no such key') or info.err:find('^WRONGTYPE')) then return info end
local contested = '0-0'
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then contested = info[i + 1] end
end
redis.call('HSET', ledger, field('history'), history, field('contested'), contested)
return 1
