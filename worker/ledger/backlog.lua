-- The jobs without a row of all batches that may be worked on. Summed up when asked, not counted
-- along: a batch that is paused, expires or is lost cannot leave a wrong number behind.
-- KEYS: active. ARGV: prefix of all keys.
local jobs = 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local meta = redis.call('HMGET', ARGV[1] .. 'b:' .. id, 'num_jobs', 'num_done')
  jobs = jobs + (meta[1] or 0) - (meta[2] or 0)
end
return jobs
