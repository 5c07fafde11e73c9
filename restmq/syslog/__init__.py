"""The syslog door: frames out of bytes, messages out of frames, and the ports they come by."""
