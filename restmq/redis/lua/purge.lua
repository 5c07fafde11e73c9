#!lua flags=allow-oom
-- Purpose: delete all waiting messages and end every stream of the queue.
-- Atomic: nothing added before survives, nothing added after is touched.
-- KEYS: the seven of common.lua
-- ARGV: none more
-- Returns: 1 if there was anything to delete, else 0. Ids go on counting; settings stay.
check_types()
local now = clock()
local s = load_state()
local had = call('EXISTS', L)
if (s.pos > s.done or s.out > 0) and deserted(s, now) then
  had = 1
  call('UNLINK', W, R, C, T, M)
  s.done, s.bdone, s.out, s.live = s.pos, s.bpos, 0, 0
end
call('UNLINK', L)
save_state(s)
call('PUBLISH', Q .. ':out', 'P')
return had
