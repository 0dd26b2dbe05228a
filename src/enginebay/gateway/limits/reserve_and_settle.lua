-- One script for all that touches an account, so that each step is atomic among all gateways. The clock is Redis' own.
--
-- KEYS     an account and its leases for each demand: a hash {held, seeded, <slot number> = used in it} and a sorted
--          set of "<hold id>:<amount>" by the instant (ms) at which the lease of a gateway that died ends
-- ARGV     "reserve", hold id, lease ms, then for each demand: amount, window ms, slot ms, retention ms, limit
--          "settle",  hold id, lease ms, then for each demand: amount, window ms, slot ms, retention ms, used
--          "seed",    "",      lease ms, then for each demand: used,   window ms, slot ms, retention ms, 0
-- A window of 0 counts what is held alone; a window of -1 never ends, and has the one slot 0.
-- Returns  {0, taken now of each demand} when granted, {} when settled or seeded; else {index of the demand from 1,
--          taken, ms until there is room or -1}; {index, taken, -2} where the account has a window that never ends and was not seeded

local operation, hold_id, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function whole(number) return string.format('%.0f', number) end

local function demand(index)
  local at = 3 + (index - 1) * 5
  return {
    account = KEYS[2 * index - 1], leases = KEYS[2 * index],
    amount = tonumber(ARGV[at + 1]), window = tonumber(ARGV[at + 2]), slot = tonumber(ARGV[at + 3]),
    retention = tonumber(ARGV[at + 4]), last = tonumber(ARGV[at + 5]),
  }
end

local function use(one, amount)
  if amount == 0 or one.window == 0 then return end
  local number = one.window < 0 and 0 or math.floor(now / one.slot)
  redis.call('HINCRBY', one.account, whole(number), whole(amount))
end

-- A hold whose gateway did not settle it in time counts as used in full, from the end of its lease on.
local function end_leases(one)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', one.leases, '-inf', now)) do
    local amount = tonumber(string.match(member, ':(%d+)$'))
    redis.call('ZREM', one.leases, member)
    redis.call('HINCRBY', one.account, 'held', whole(-amount))
    use(one, amount)
  end
end

local function drops_at(one, number) return (number + 1) * one.slot + one.window end

-- What is taken now, and the slots {number, used} that are left.
local function taken(one)
  local sum, slots, fields = 0, {}, redis.call('HGETALL', one.account)
  for index = 1, #fields, 2 do
    local name, value = fields[index], tonumber(fields[index + 1])
    local number = tonumber(name)
    if name == 'held' then
      sum = sum + value
    elseif number ~= nil then
      if one.window >= 0 and drops_at(one, number) <= now then
        redis.call('HDEL', one.account, name)
      else
        sum = sum + value
        slots[#slots + 1] = {number, value}
      end
    end
  end
  return sum, slots
end

local function room_after_ms(one, too_many, slots)
  if one.window <= 0 then return -1 end
  table.sort(slots, function(a, b) return a[1] < b[1] end)
  for _, slot in ipairs(slots) do
    too_many = too_many - slot[2]
    if too_many <= 0 then return drops_at(one, slot[1]) - now end
  end
  return -1
end

local function keep(one)
  redis.call('PEXPIRE', one.account, whole(one.retention + lease_ms))
  redis.call('PEXPIRE', one.leases, whole(one.retention + lease_ms))
end

local num_demands = #KEYS / 2

if operation == 'reserve' then
  local granted = {0}
  for index = 1, num_demands do
    local one = demand(index)
    end_leases(one)
    local sum, slots = taken(one)
    if one.window < 0 and redis.call('HEXISTS', one.account, 'seeded') == 0 then
      return {index, whole(sum), whole(-2)}
    end
    if sum + one.amount > one.last then
      return {index, whole(sum), whole(room_after_ms(one, sum + one.amount - one.last, slots))}
    end
    granted[index + 1] = whole(sum + one.amount)
  end
  for index = 1, num_demands do
    local one = demand(index)
    redis.call('HINCRBY', one.account, 'held', whole(one.amount))
    redis.call('ZADD', one.leases, now + lease_ms, hold_id .. ':' .. whole(one.amount))
    keep(one)
  end
  return granted
end

for index = 1, num_demands do
  local one = demand(index)
  if operation == 'seed' then
    if redis.call('HSETNX', one.account, 'seeded', 1) == 1 then use(one, one.amount) end
  elseif redis.call('ZREM', one.leases, hold_id .. ':' .. whole(one.amount)) == 1 then
    redis.call('HINCRBY', one.account, 'held', whole(-one.amount))
    use(one, one.last)
  end
  keep(one)
end
return {}
