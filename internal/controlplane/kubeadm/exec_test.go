package kubeadm

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/keyturn/keyturn/internal/agent"
)

// program is what runs in a container: it has read all of standard input, and writes to standard output and error.
type program func(r *http.Request, stdin []byte, stdout, stderr io.Writer) metav1.Status

// containers answers pods/exec by websocket, as an API server does, with Kubernetes' own side of the protocol.
func containers(t *testing.T, run program) *rest.Config {
	t.Helper()
	const stdin, stdout, stderr, status = 0, 1, 2, 3
	channels := []wsstream.ChannelType{
		stdin: wsstream.ReadChannel, stdout: wsstream.WriteChannel, stderr: wsstream.WriteChannel,
		status: wsstream.WriteChannel,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
			"v5.channel.k8s.io": {Binary: true, Channels: channels},
		})
		_, streams, err := conn.Open(w, r)
		if err != nil {
			return // the client gave up
		}
		var input []byte
		if r.URL.Query().Get("stdin") == "true" {
			input, _ = io.ReadAll(streams[stdin])
		}
		ended := run(r, input, streams[stdout], streams[stderr])
		if text, err := json.Marshal(ended); err == nil {
			_, _ = streams[status].Write(text)
		}
		_ = conn.Close()
	}))
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL}
}

// agentsAt are agents whose pods are reached by a configuration.
func agentsAt(cfg *rest.Config) *pods {
	return &pods{reach: &reach{cfg: cfg}, images: Images{Namespace: "agents"}}
}

func TestApply(t *testing.T) {
	var order agent.Order
	cfg := containers(t, func(r *http.Request, stdin []byte, stdout, _ io.Writer) metav1.Status {
		if err := json.Unmarshal(stdin, &order); err != nil {
			t.Error(err)
		}
		if want := "/api/v1/namespaces/agents/pods/agent-1/exec"; r.URL.Path != want {
			t.Errorf("path %s, want %s", r.URL.Path, want)
		}
		q := r.URL.Query()
		if q.Get("container") != "agent" || !strings.Contains(strings.Join(q["command"], " "), "keyturn-agent apply") {
			t.Errorf("query %v", q)
		}
		_, _ = io.WriteString(stdout, `{"answer":"Done","message":"a\u001b[31m`+strings.Repeat("x", 2*maxStderr)+`"}`)
		return metav1.Status{Status: metav1.StatusSuccess}
	})
	r, err := agentsAt(cfg).apply(t.Context(), pod{name: "agent-1"}, agent.Order{Do: agent.Observe, Cluster: "uid"})
	if err != nil || r.Answer != agent.Done || order.Cluster != "uid" {
		t.Errorf("report %+v of order %+v, %v", r, order, err)
	}
	if strings.ContainsRune(r.Message, '\x1b') || len(r.Message) > maxStderr+len("…") {
		t.Errorf("a message of %d bytes that begins with %q", len(r.Message), r.Message[:8])
	}
}

// TestApplyFails has a pod that carries nothing out.
func TestApplyFails(t *testing.T) {
	failed := func(code int) metav1.Status {
		return metav1.Status{Status: metav1.StatusFailure, Reason: "NonZeroExitCode", Message: "command terminated",
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "ExitCode", Message: strconv.Itoa(code)}}}}
	}
	for name, test := range map[string]struct {
		run  program
		want string
	}{
		"it exits with an error": {func(_ *http.Request, _ []byte, _, stderr io.Writer) metav1.Status {
			_, _ = io.WriteString(stderr, "no such\x1b[31m order")
			return failed(2)
		}, "exit code 2: no such"},
		"it answers nothing": {func(*http.Request, []byte, io.Writer, io.Writer) metav1.Status {
			return metav1.Status{Status: metav1.StatusSuccess}
		}, "its answer is no report"},
		"it answers with something else": {func(_ *http.Request, _ []byte, stdout, _ io.Writer) metav1.Status {
			_, _ = io.WriteString(stdout, `{"found":{}}`)
			return metav1.Status{Status: metav1.StatusSuccess}
		}, "its answer is no report"},
		"it answers without end": {func(_ *http.Request, _ []byte, stdout, _ io.Writer) metav1.Status {
			for range maxReport/1000 + 1 {
				_, _ = stdout.Write(make([]byte, 1000))
			}
			return metav1.Status{Status: metav1.StatusSuccess}
		}, "it answered more than 1048576 bytes"},
	} {
		_, err := agentsAt(containers(t, test.run)).apply(t.Context(), pod{name: "agent-1"}, agent.Order{})
		if err == nil || !strings.Contains(err.Error(), "running the agent in pod agents/agent-1: ") ||
			!strings.Contains(err.Error(), test.want) || strings.ContainsRune(err.Error(), '\x1b') {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestApplyWhileTheKubeletIsAway has an API server that cannot reach the pod. The error is in words for people.
func TestApplyWhileTheKubeletIsAway(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `pod not found ("agent-1_agents")`, http.StatusInternalServerError)
	}))
	defer server.Close()
	_, err := agentsAt(&rest.Config{Host: server.URL}).apply(t.Context(), pod{name: "agent-1"}, agent.Order{})
	const want = "running the agent in pod agents/agent-1: keyturn-agent does not run; Keyturn runs it again"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// TestApplyThatHangs has a pod that never answers.
func TestApplyThatHangs(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	cfg := containers(t, func(*http.Request, []byte, io.Writer, io.Writer) metav1.Status {
		close(began)
		<-ended
		return metav1.Status{}
	})
	defer close(ended)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	if _, err := agentsAt(cfg).apply(ctx, pod{name: "agent-1"}, agent.Order{}); err == nil {
		t.Error("it has answered")
	}
}

func TestReadLedger(t *testing.T) {
	since := time.Unix(1000, 0).UTC()
	answer := `{"since":"` + since.Format(time.RFC3339) + `"}`
	cfg := containers(t, func(r *http.Request, _ []byte, stdout, _ io.Writer) metav1.Status {
		if want := "/api/v1/namespaces/agents/pods/keyturn-signer-cp-1/exec"; r.URL.Path != want {
			t.Errorf("path %s, want %s", r.URL.Path, want)
		}
		_, _ = io.WriteString(stdout, answer)
		return metav1.Status{Status: metav1.StatusSuccess}
	})
	r, err := agentsAt(cfg).ledger(t.Context(), "cp-1")
	if err != nil || !r.Since.Equal(since) {
		t.Errorf("ledger %+v, %v", r, err)
	}
	answer = `{"tokens":[]}`
	if _, err := agentsAt(cfg).ledger(t.Context(), "cp-1"); err == nil || err.Error() != "its answer is no ledger" {
		t.Errorf("an answer that is no ledger: %v", err)
	}
}
