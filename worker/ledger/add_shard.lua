-- Accept a shard: its jobs, and the error rows of the input's bad lines among them. Repeating it
-- changes nothing: shards are numbered, and the digest tells whether it is the same input.
-- KEYS: the batch's 5, active, served.
-- ARGV: number, digest before, digest after, first index, number of jobs and bad lines,
--       blob of jobs ('' for none), blob of rows, prefix of all keys, number of bad lines,
--       then index, 'error', ...
local meta = redis.call('HMGET', KEYS[1], 'state', 'num_shards', 'digest', 'sealed', 'priority', 'id')
if not meta[1] then return 'UNKNOWN' end
if meta[1] == 'cancelled' then return 'CANCELLED' end
local number, num_shards = tonumber(ARGV[1]), tonumber(meta[2])
if number < num_shards then return 'HAVE' end
if meta[4] == '1' then return 'DIFFERENT' end
if number > num_shards then return 'BEHIND' end
if meta[3] ~= ARGV[2] then return 'DIFFERENT' end
if ARGV[6] ~= '' then
  redis.call('XADD', KEYS[2], '*', 'f', ARGV[4], 'c', ARGV[5], 'd', 0, 'b', ARGV[6])
end
redis.call('HINCRBY', KEYS[1], 'num_jobs', ARGV[5])
if tonumber(ARGV[9]) > 0 then write_rows(ARGV[7], 10, tonumber(ARGV[9])) end
redis.call('HSET', KEYS[1], 'num_shards', number + 1, 'digest', ARGV[3])
if ARGV[6] ~= '' and meta[1] == 'active' and not redis.call('ZSCORE', KEYS[6], meta[6]) then
  redis.call('ZADD', KEYS[6], score(meta[5], KEYS[7]), meta[6])
end
settle(KEYS[6], 0, ARGV[8])
return 'ADDED'
