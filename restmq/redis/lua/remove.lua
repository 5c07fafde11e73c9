#!lua flags=allow-oom
-- Purpose: delete a queue: its messages, settings and numbers.
-- Atomic: what is put in after it makes a new queue.
-- KEYS: those of common.lua
-- ARGV: 2 "1": also if there are messages in it
-- Returns: 1 deleted, 0 there is none, -1 there are messages in it
-- What is in the outbox still goes where it goes.
check_types()
local now = clock()
local s = load_state()
if s.known == false and s.epoch == 0 and call('EXISTS', unpack(KEYS)) == 0 then return 0 end
local messages = call('EXISTS', L, F, Y, KEYS[11], W, R) > 0 or s.pos > s.done or s.out > 0
if messages and ARGV[2] ~= '1' then return -1 end
local out = call('HGET', Q, 'kseq')
call('UNLINK', Q, L, F, W, R, C, T, M, H, KEYS[9], Y, KEYS[11], KEYS[12], KEYS[13])
if out and call('EXISTS', KEYS[14]) == 1 then call('HSET', Q, 'kseq', out) end
call('PUBLISH', Q .. ':out', 'P')
return 1
