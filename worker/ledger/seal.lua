-- The input has ended: the batch is finished once every job has its row, and waits for that as long
-- as it takes. KEYS: the batch's 5, active.
-- ARGV: digest of all shards, seconds to keep results, prefix of all keys, number of shards.
local meta = redis.call('HMGET', KEYS[1], 'state', 'digest', 'sealed', 'job_key', 'num_shards')
if not meta[1] then return 'UNKNOWN' end
if meta[1] == 'cancelled' then return 'CANCELLED' end
if tonumber(ARGV[4]) > tonumber(meta[5]) then return 'BEHIND' end
if meta[2] ~= ARGV[1] then return 'DIFFERENT' end
if meta[3] == '0' then
  each_key(ARGV[3], meta[4], 'PERSIST')
  redis.call('HSET', KEYS[1], 'sealed', 1)
  settle(KEYS[6], ARGV[2], ARGV[3])
end
return 'SEALED'
