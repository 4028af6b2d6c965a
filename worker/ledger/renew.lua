-- Hold a shard for another lease. KEYS: the batch's 5. ARGV: entry, lease.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 'gone' end
if not held(ARGV[1], ARGV[2]) then return 'lost' end
redis.call('XCLAIM', KEYS[2], GROUP, ARGV[2], 0, ARGV[1], 'JUSTID')
return state
