#!lua flags=allow-oom
-- Purpose: delete all messages, waiting or out, and end every stream of the queue.
-- Atomic: nothing added before survives, nothing added after is touched.
-- KEYS: those of common.lua
-- ARGV: none more
-- Returns: how many were deleted. Ids go on counting; settings stay.
check_types()
local now = clock()
local s = load_state()
local had = call('LLEN', L) + (call('HGET', Q, 'fold') or 0) + call('ZCARD', Y) + call('HLEN', KEYS[11]) + s.pos - s.done + s.out
if deserted(s, now) then
  call('UNLINK', C, T, M)
  s.live = 0
end
call('UNLINK', L, F, W, R, H, Y, KEYS[11], KEYS[12], KEYS[13])  -- what is out must not come back from a consumer that never got it
call('HDEL', Q, 'fold')
all_done(s)
save_state(s)
call('PUBLISH', Q .. ':out', 'P')
return had
