package discovery

import (
	"context"
	"time"

	"github.com/keyturn/keyturn/internal/fleet/discovery/bucketurl"
)

// SetTimeout makes the calls of a bucket give up sooner.
func (b *Bucket) SetTimeout(d time.Duration) {
	if s, ok := b.store.(*cloud); ok {
		s.timeout = d
	}
}

// Clean is what becomes of the errors of the clouds' libraries.
func Clean(err error) error { return clean(err) }

// Put writes an object where was had been read; an empty one was not there.
func Put(ctx context.Context, url, name, data, was string) error {
	u, err := bucketurl.Parse(url)
	if err != nil {
		return err
	}
	read := object{found: was != "", data: []byte(was)}
	return newStore(u).put(ctx, document{name: name, data: []byte(data)}, read)
}
