package kubeconfig

import (
	"fmt"
	"io"
	"net/http"
)

// MaxAnswer is the size in bytes of the longest answer that a transport of Bound reads. Lists that may be long are read
// in pages. A few of these fit in the memory of a controller, which has other clusters to see to.
const MaxAnswer = 32 << 20

// Bound returns a transport for a foreign API server: an endless answer fails the request, and does not fill the
// memory. It is not for watches.
func Bound(next http.RoundTripper) http.RoundTripper { return bounded{next: next, most: MaxAnswer} }

type bounded struct {
	next http.RoundTripper
	most int64
}

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = &limited{ReadCloser: resp.Body, left: b.most, most: b.most}
	}
	return resp, err
}

// WrappedRoundTripper returns the wrapped transport, for callers that close its connections.
func (b bounded) WrappedRoundTripper() http.RoundTripper { return b.next }

// limited is a body that fails when it exceeds the limit.
type limited struct {
	io.ReadCloser
	left, most int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, l.err()
	}
	// One byte more than allowed distinguishes a body that is too long from one that ends there.
	n, err := l.ReadCloser.Read(p[:min(int64(len(p)), l.left+1)])
	if l.left -= int64(n); l.left < 0 {
		return n - 1, l.err()
	}
	return n, err
}

func (l *limited) err() error { return fmt.Errorf("the answer is longer than %d bytes", l.most) }
