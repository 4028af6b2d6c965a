-- How many shards could be claimed now (of those whose holders fell silent, up to 64).
-- KEYS: the batch's 5. ARGV: silence in ms.
local silent = redis.pcall('XPENDING', KEYS[2], GROUP, 'IDLE', ARGV[1], '-', '+', 64)
if silent.err then return 0 end
return num_new() + #silent
