-- Give a shard back at once. KEYS: the batch's 5. ARGV: entry, lease, whether it counts as a death.
local pending = held(ARGV[1], ARGV[2])
if not pending then return 0 end
-- Last seen in 1970: silent for longer than any lease.
redis.call('XCLAIM', KEYS[2], GROUP, 'released', 0, ARGV[1],
  'TIME', 0, 'RETRYCOUNT', pending[4] - 1 + ARGV[3], 'JUSTID')
forget(ARGV[2])
return 1
