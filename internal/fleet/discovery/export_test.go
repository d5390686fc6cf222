package discovery

import "time"

// SetTimeout makes the calls of a bucket give up sooner.
func (b *Bucket) SetTimeout(d time.Duration) { b.store.timeout = d }

// Clean is what becomes of the errors of the clouds' libraries.
func Clean(err error) error { return clean(err) }
