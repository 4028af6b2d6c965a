-- How many shards could be claimed now (of those whose holders fell silent, up to 64).
-- KEYS: the batch's 5. ARGV: silence in ms.
local pending = redis.pcall('XPENDING', KEYS[2], GROUP)
if pending.err then return 0 end
local silent = redis.call('XPENDING', KEYS[2], GROUP, 'IDLE', ARGV[1], '-', '+', 64)
return redis.call('XLEN', KEYS[2]) - pending[1] + #silent
