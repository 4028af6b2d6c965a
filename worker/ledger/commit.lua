-- Write rows for jobs of a leased shard: all of them, or none. The first row of a job stays for ever.
-- KEYS: the batch's 5, active.
-- ARGV: entry, lease, whether the shard is done (0, 1), seconds to keep results, prefix of all keys,
--       blob, tokens, canvases, steps, number of rows, number of failed jobs,
--       then index, status for each row, then index, blob for each failed job.
if redis.call('EXISTS', KEYS[1]) == 0 then return {'GONE'} end
if not held(ARGV[1], ARGV[2]) then return {'LOST'} end
local num_rows, num_failed = tonumber(ARGV[10]), tonumber(ARGV[11])
local done = already_done(12, num_rows)
if #done > 0 then return {'DONE', done} end
-- First what frees memory: a full server refuses rows, but not those that end a shard.
if ARGV[3] == '1' then strike(ARGV[1], ARGV[2]) end
if num_rows > 0 then
  write_rows(ARGV[6], 12, num_rows)
  redis.call('HINCRBY', KEYS[1], 'num_tokens', ARGV[7])
  redis.call('HINCRBY', KEYS[1], 'num_canvases', ARGV[8])
  redis.call('HINCRBY', KEYS[1], 'num_steps', ARGV[9])
  for at = 12 + 2 * num_rows, 10 + 2 * num_rows + 2 * num_failed, 2 do
    redis.call('HSET', KEYS[5], ARGV[at], ARGV[at + 1])
  end
end
settle(KEYS[6], ARGV[4], ARGV[5])
return {'WRITTEN'}
