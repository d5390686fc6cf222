package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clientportforward "k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
)

// securePort is the port of an API server that kubeadm made, unless --secure-port says otherwise.
const securePort = 6443

// forward returns a function that dials a port of a pod through the API servers that cfg reaches. It ignores the
// address that it is given.
func forward(cfg *rest.Config, pod string, port int) (func(context.Context, string, string) (net.Conn, error), error) {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	url := client.CoreV1().RESTClient().Post().
		Namespace(metav1.NamespaceSystem).Resource("pods").Name(pod).SubResource("portforward").URL()
	dialer, err := clientportforward.NewSPDYOverWebsocketDialerForStreaming(url, cfg)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := dial(ctx, dialer, port)
		if err != nil {
			return nil, fmt.Errorf("forwarding port %d of pod %s: %w", port, pod, err)
		}
		return conn, nil
	}, nil
}

// dial makes one connection to a port. The dialer knows no context, so a connection that comes too late is closed.
func dial(ctx context.Context, dialer httpstream.Dialer, port int) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := connect(dialer, port)
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		return r.conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				_ = r.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

func connect(dialer httpstream.Dialer, port int) (net.Conn, error) {
	connection, _, err := dialer.Dial(portforward.PortForwardV1Name)
	if err != nil {
		return nil, err
	}
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	problems, err := connection.CreateStream(headers)
	if err != nil {
		return nil, errors.Join(err, connection.Close())
	}
	_ = problems.Close() // nothing is written to it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := connection.CreateStream(headers)
	if err != nil {
		return nil, errors.Join(err, connection.Close())
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
