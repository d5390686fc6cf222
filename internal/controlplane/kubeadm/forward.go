package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clientportforward "k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// securePort is the port of an API server that kubeadm made, unless --secure-port says otherwise.
const securePort = 6443

// dialTimeout limits how long it takes to reach a port of a pod.
const dialTimeout = 5 * time.Second

// forward returns a function that dials a port of a pod through the API servers that cfg reaches. It ignores the
// address that it is given.
func forward(cfg *rest.Config, pod string, port int) (func(context.Context, string, string) (net.Conn, error), error) {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	to := client.CoreV1().RESTClient().Post().
		Namespace(metav1.NamespaceSystem).Resource("pods").Name(pod).SubResource("portforward").URL()
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := dial(ctx, cfg, to, port)
		if err != nil {
			return nil, fmt.Errorf("forwarding port %d of pod %s: %w", port, pod, err)
		}
		return conn, nil
	}, nil
}

// dial makes one connection to a port.
func dial(ctx context.Context, cfg *rest.Config, to *url.URL, port int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	connection, err := tunnel(ctx, cfg, to)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = connection.Close() }) // ends what waits for an answer
	conn, err := connect(connection, port)
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, connection.Close())
	}
	return conn, nil
}

// pingPeriod is how often a tunnel is kept from being idle, as kubectl does it.
const pingPeriod = clientportforward.PingPeriod

// tunnel opens SPDY streams in a websocket, as the dialer of client-go does, which knows no context.
func tunnel(ctx context.Context, cfg *rest.Config, to *url.URL) (httpstream.Connection, error) {
	transport, holder, err := websocket.RoundTripperFor(cfg) // for one connection
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return nil, err
	}
	conn, err := websocket.Negotiate(transport, holder, request,
		portforward.WebsocketsSPDYTunnelingPortForwardV1)
	if err != nil {
		return nil, err
	}
	return spdy.NewClientConnectionWithPings(clientportforward.NewTunnelingConnection("client", conn), pingPeriod)
}

// connect opens the two streams of a forwarded port.
func connect(connection httpstream.Connection, port int) (net.Conn, error) {
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	problems, err := connection.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	_ = problems.Close() // nothing is written to it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := connection.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	c := &stream{Stream: data, connection: connection}
	go c.watch(problems)
	return c, nil
}

// stream is a forwarded port as a net.Conn. It has no deadlines: who uses it closes it when it takes too long.
type stream struct {
	httpstream.Stream
	connection httpstream.Connection

	mu      sync.Mutex
	problem error
}

// maxProblem bounds what is read of an error that the kubelet reports.
const maxProblem = 4096

// watch ends the connection when the kubelet reports that it could not forward the port.
func (s *stream) watch(problems io.Reader) {
	text, err := io.ReadAll(io.LimitReader(problems, maxProblem))
	if err == nil && len(text) == 0 {
		return
	}
	s.mu.Lock()
	if s.problem = err; len(text) > 0 {
		s.problem = fmt.Errorf("the kubelet answers: %s", text)
	}
	s.mu.Unlock()
	_ = s.Close()
}

// Read implements net.Conn. Its error is the kubelet's, if there is one.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.problem != nil {
			err = s.problem
		}
	}
	return n, err
}

// Close implements net.Conn.
func (s *stream) Close() error { return errors.Join(s.Reset(), s.connection.Close()) }

func (*stream) LocalAddr() net.Addr              { return address{} }
func (*stream) RemoteAddr() net.Addr             { return address{} }
func (*stream) SetDeadline(time.Time) error      { return nil }
func (*stream) SetReadDeadline(time.Time) error  { return nil }
func (*stream) SetWriteDeadline(time.Time) error { return nil }

// address is the address of a forwarded port, which has none.
type address struct{}

func (address) Network() string { return "portforward" }
func (address) String() string  { return "portforward" }
