package kubetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"

	"k8s.io/client-go/rest"
)

// ErrInjected is in the error of every request that failed without an answer.
var ErrInjected = errors.New("injected failure")

// Fault is what happens to one request.
type Fault int

// The faults. A status of 400 or more is a fault, too: the request is not sent, and answered with it.
const (
	// None lets a request pass.
	None Fault = iota
	// LoseRequest fails the request, which the server never sees.
	LoseRequest
	// LoseAnswer fails the request after the server has done it.
	LoseAnswer
)

// Inject returns a copy of config whose requests meet the faults that choose returns. choose is called once for every
// request, from several goroutines at once.
func Inject(config *rest.Config, choose func(*http.Request) Fault) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) { return meet(next, r, choose(r)) })
	})
	return config
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func meet(next http.RoundTripper, r *http.Request, fault Fault) (*http.Response, error) {
	switch fault {
	case None:
		return next.RoundTrip(r)
	case LoseRequest:
		return nil, fmt.Errorf("%w: request lost", ErrInjected)
	case LoseAnswer:
		answer, err := next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(io.Discard, answer.Body)
		return nil, errors.Join(fmt.Errorf("%w: answer lost", ErrInjected), err, answer.Body.Close())
	}
	return refuse(r, int(fault)), nil
}

func refuse(r *http.Request, code int) *http.Response {
	body := fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"injected",`+
		`"reason":%q,"code":%d}`,
		reasons[code], code)
	return &http.Response{
		StatusCode: code,
		Status:     fmt.Sprintf("%d %s", code, http.StatusText(code)),
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:  http.Header{"Content-Type": {"application/json"}},
		Body:    io.NopCloser(bytes.NewBufferString(body)),
		Request: r,
	}
}

// reasons are the reasons that clients branch on (see StatusReason of apimachinery).
var reasons = map[int]string{
	http.StatusUnauthorized:        "Unauthorized",
	http.StatusForbidden:           "Forbidden",
	http.StatusNotFound:            "NotFound",
	http.StatusConflict:            "Conflict",
	http.StatusGone:                "Expired",
	http.StatusTooManyRequests:     "TooManyRequests",
	http.StatusInternalServerError: "InternalError",
	http.StatusServiceUnavailable:  "ServiceUnavailable",
	http.StatusGatewayTimeout:      "Timeout",
}
