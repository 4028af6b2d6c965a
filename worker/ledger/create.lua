-- A new batch, or the one that was submitted with the same job key.
-- KEYS: the batch's 5, batches, labels, job key (absent without one).
-- ARGV: prefix of all keys, id, label, job key ('' for none), then field, value, ... of the meta hash.
-- Returns the id, and 0 if it is an earlier batch's.
local root, id, label = ARGV[1], ARGV[2], ARGV[3]
if KEYS[8] then
  local earlier = redis.call('GET', KEYS[8])
  if earlier and earlier ~= id and redis.call('EXISTS', root .. 'b:' .. earlier) == 1 then
    return {earlier, 0}
  end
end
if redis.call('EXISTS', KEYS[1]) == 1 then return {id, 1} end
local now = now_ms()
redis.call('HSET', KEYS[1], 'id', id, 'label', label, 'job_key', ARGV[4], 'state', 'active',
  'sealed', 0, 'created_ms', now, 'num_jobs', 0, 'num_done', 0, 'num_shards', 0, 'digest', '',
  unpack(ARGV, 5))
redis.call('XGROUP', 'CREATE', KEYS[2], GROUP, '0', 'MKSTREAM')
if KEYS[8] then redis.call('SET', KEYS[8], id) end
each_key(root, ARGV[4], 'EXPIRE', ABANDONED_S)
redis.call('ZADD', KEYS[6], now, id)
redis.call('ZADD', KEYS[7], now, label)
-- Both lists are swept here, a little at each call: of batches that have expired, and of labels that
-- nobody has asked for in a long time and that have no work.
for _, one in ipairs(redis.call('ZRANDMEMBER', KEYS[6], 8)) do
  if redis.call('EXISTS', root .. 'b:' .. one) == 0 then redis.call('ZREM', KEYS[6], one) end
end
for _, one in ipairs(redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', now - ABANDONED_S * 1000)) do
  if redis.call('EXISTS', root .. 'active:' .. one) == 0 then redis.call('ZREM', KEYS[7], one) end
end
return {id, 1}
