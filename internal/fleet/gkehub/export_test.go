package gkehub

import "time"

// SetTimeout changes how long a call may take.
func (m *Membership) SetTimeout(d time.Duration) { m.timeout = d }
