package kubeadm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/keyturn/keyturn/internal/agent"
	"github.com/keyturn/keyturn/internal/agent/agentpod"
	"github.com/keyturn/keyturn/internal/printable"
	"github.com/keyturn/keyturn/signer/ledger"
)

// Bounds of what an agent answers.
const (
	maxReport   = 1 << 20
	maxStderr   = 4096
	execTimeout = 20 * time.Second
)

// apply runs the agent's program in its pod. An answer of somebody else in its stead can tell lies about a node, and
// learns no private key: those are sealed.
func (p *pods) apply(ctx context.Context, to pod, o agent.Order) (r agent.Report, err error) {
	order, err := json.Marshal(o)
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	answer, err := p.exec(ctx, to.name, order)
	if err != nil {
		err = explain(err, "keyturn-agent", "Keyturn runs it again")
		return r, fmt.Errorf("running the agent in pod %s/%s: %w", p.images.Namespace, to.name, err)
	}
	if err := json.Unmarshal(answer, &r); err != nil || r.Answer == "" {
		return r, fmt.Errorf("running the agent in pod %s/%s: its answer is no report", p.images.Namespace, to.name)
	}
	r.Message = printable.Text(r.Message, maxStderr)
	if f := r.Found; f != nil {
		f.KeyProblem = printable.Text(f.KeyProblem, maxStderr)
		f.Server.Problem = printable.Text(f.Server.Problem, maxStderr)
	}
	return r, nil
}

// exec runs the agent with something on its standard input, and returns what it writes to standard output.
func (p *pods) exec(ctx context.Context, name string, input []byte) ([]byte, error) {
	return run(ctx, p.reach.cfg, p.images.Namespace, name, maxReport, &corev1.PodExecOptions{
		Container: agentpod.Container, Command: p.options().Apply(), Stdin: true, Stdout: true, Stderr: true,
	}, input)
}

// The signer's static pod, which package agent makes.
const (
	signerPod       = "keyturn-signer"
	signerContainer = "signer"
	signerProgram   = "/keyturn-signer"
	// maxLedger is above a ledger whose cells are all used.
	maxLedger = 32 << 20
)

// ledger has the signer's program read its ledger. An answer of somebody else in its stead can tell lies about tokens.
func (p *pods) ledger(ctx context.Context, node string) (report ledger.Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	text, err := run(ctx, p.reach.cfg, p.images.Namespace, signerPod+"-"+node, maxLedger, &corev1.PodExecOptions{
		Container: signerContainer,
		Command:   []string{signerProgram, "ledger", "--ledger-file=" + agentpod.SignerDir + "/ledger"},
		Stdout:    true, Stderr: true,
	}, nil)
	if err != nil {
		return report, err
	}
	if err := json.Unmarshal(text, &report); err != nil || report.Since.IsZero() {
		return ledger.Report{}, errors.New("its answer is no ledger")
	}
	return report, nil
}

// run runs a command in a container, with something on its standard input if the options want that, and returns what it
// writes to standard output, limit bytes at most.
func run(
	ctx context.Context, cfg *rest.Config, namespace, pod string, limit int, o *corev1.PodExecOptions, input []byte,
) ([]byte, error) {
	executor, err := executor(cfg, namespace, pod, o)
	if err != nil {
		return nil, err
	}
	stdout, stderr := bounded{limit: limit}, bounded{limit: maxStderr}
	streams := remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}
	if o.Stdin {
		streams.Stdin = bytes.NewReader(input)
	}
	err = executor.StreamWithContext(ctx, streams)
	switch {
	case err != nil && stderr.kept.Len() > 0:
		return nil, fmt.Errorf("%w: %s", err, printable.Text(stderr.kept.String(), maxStderr))
	case err == nil && stdout.cut:
		err = fmt.Errorf("it answered more than %d bytes", limit)
	}
	return stdout.kept.Bytes(), err
}

// executor runs a command in a pod by a websocket or, behind a proxy that knows none, by SPDY.
func executor(cfg *rest.Config, namespace, pod string, o *corev1.PodExecOptions) (remotecommand.Executor, error) {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	url := client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(pod).
		SubResource("exec").VersionedParams(o, scheme.ParameterCodec).URL()
	websocket, errWebsocket := remotecommand.NewWebSocketExecutor(cfg, http.MethodGet, url.String())
	spdy, errSPDY := remotecommand.NewSPDYExecutor(cfg, http.MethodPost, url)
	if err := errors.Join(errWebsocket, errSPDY); err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(websocket, spdy, httpstream.IsUpgradeFailure)
}

// bounded keeps the beginning of what is written. It has no other method of a bytes.Buffer: io.Copy would prefer
// ReadFrom, which knows no limit.
type bounded struct {
	kept  bytes.Buffer
	limit int
	cut   bool
}

// Write never fails: a writer that did would end the stream with another error.
func (b *bounded) Write(p []byte) (int, error) {
	room := min(len(p), b.limit-b.kept.Len())
	b.cut = b.cut || room < len(p)
	_, _ = b.kept.Write(p[:room])
	return len(p), nil
}
