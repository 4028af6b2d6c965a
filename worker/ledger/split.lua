-- Replace a shard by smaller ones, to find the job that kills its workers. KEYS: the batch's 5.
-- ARGV: entry, lease, deaths so far, then first index, count, blob for each.
if not held(ARGV[1], ARGV[2]) then return 0 end
strike(ARGV[1], ARGV[2])
for at = 4, #ARGV, 3 do
  redis.call('XADD', KEYS[2], '*', 'f', ARGV[at], 'c', ARGV[at + 1], 'd', ARGV[3], 'b', ARGV[at + 2])
end
return 1
