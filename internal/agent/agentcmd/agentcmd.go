// Package agentcmd is the command keyturn-agent, which runs in a pod on a control-plane node. It has three subcommands:
//
//	key    makes the X25519 key of this start of the pod, in the init container; the public key is its last message
//	run    is the main process of the pod: it undoes a change with which kube-apiserver does not become ready
//	apply  reads an order from standard input and writes a report to standard output; a controller runs it by pods/exec
//
// The exit code is 0 when there is a report, regardless of what it answers, 1 after a failure without one, and 2 after
// bad flags.
package agentcmd

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	sigsjson "sigs.k8s.io/json"

	"github.com/keyturn/keyturn/internal/agent"
)

// IO is where the command reads and writes.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
}

// PodUIDVariable is the environment variable with the UID of the pod.
const PodUIDVariable = "KEYTURN_POD_UID"

// Patience is how long kube-apiserver may be not ready before a change is undone.
const Patience = 5 * time.Minute

// maxOrder is far above an order with all keys of a cluster.
const maxOrder = 1 << 20

// Run runs the command and returns its exit code.
func Run(ctx context.Context, args []string, streams IO) int {
	err := run(ctx, args, streams)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		_, _ = fmt.Fprintf(streams.Err, "Error: %v\nhint: see keyturn-agent key|run|apply --help\n", err)
		return 2
	}
	_, _ = fmt.Fprintf(streams.Err, "Error: %v\n", err)
	return 1
}

// errUsage is wrapped by what is wrong with the arguments.
var errUsage = errors.New("bad arguments")

// flags are the flags of all subcommands.
type flags struct {
	keyFile, message         string
	pki, manifests, stateDir string
	patience                 time.Duration
}

// Command is a subcommand of keyturn-agent.
type Command struct {
	Name string
	// Short is what it does, for its reference.
	Short string
	run   func(context.Context, flags, IO) error
}

// Commands returns the subcommands.
func Commands() []Command {
	return []Command{
		{"key", "Make the X25519 key of this start of the pod, and write the public key as the termination message", makeKey},
		{"run", "Wait, and undo a change with which kube-apiserver does not become ready", watch},
		{"apply", "Read an order from standard input, and write a report to standard output", apply},
	}
}

// Flags returns the flags of a subcommand, for its reference.
func (c Command) Flags() *flag.FlagSet { return c.flagSet(new(flags)) }

// flagSet returns a set that parses the flags into f.
func (c Command) flagSet(f *flags) *flag.FlagSet {
	set := flag.NewFlagSet("keyturn-agent "+c.Name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&f.keyFile, "key-file", "/run/keyturn/key",
		"`file` of the X25519 key of this start of the pod, in memory")
	if c.Name == "key" {
		set.StringVar(&f.message, "termination-log", "/dev/termination-log", "`file` to which the public key is written")
	} else {
		set.StringVar(&f.pki, "pki-dir", "/etc/kubernetes/pki", "`directory` that is the certificatesDir of kubeadm")
		set.StringVar(&f.manifests, "manifest-dir", "/etc/kubernetes/manifests", "`directory` of static pod manifests")
		set.StringVar(&f.stateDir, "state-dir", "/var/lib/keyturn", "`directory` of the agent and of the signer")
	}
	if c.Name == "run" {
		set.DurationVar(&f.patience, "patience", Patience,
			"how long kube-apiserver may be not ready before a change is undone")
	}
	return set
}

func run(ctx context.Context, args []string, streams IO) error {
	if len(args) == 0 {
		return fmt.Errorf("%w: a subcommand is missing", errUsage)
	}
	for _, c := range Commands() {
		if c.Name != args[0] {
			continue
		}
		f, err := c.parse(args[1:], streams.Err)
		if err != nil {
			return err
		}
		return c.run(ctx, f, streams)
	}
	return fmt.Errorf("%w: there is no subcommand %q", errUsage, args[0])
}

func (c Command) parse(args []string, stderr io.Writer) (flags, error) {
	f := flags{}
	set := c.flagSet(&f)
	err := set.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		set.SetOutput(stderr)
		set.PrintDefaults()
		return f, err
	}
	if err == nil && set.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	for name, path := range map[string]string{"pki-dir": f.pki, "manifest-dir": f.manifests, "state-dir": f.stateDir} {
		if err == nil && path != "" && (!filepath.IsAbs(path) || filepath.Clean(path) != path) {
			err = fmt.Errorf("--%s %q is not an absolute path in its shortest form", name, path)
		}
	}
	if err != nil {
		return f, fmt.Errorf("%w: %w", errUsage, err)
	}
	return f, nil
}

func (f flags) agent() agent.Agent {
	return agent.Agent{PKI: f.pki, Manifests: f.manifests, StateDir: f.stateDir}
}

// makeKey writes the private key first: a public key that is read belongs to one that is there.
func makeKey(_ context.Context, f flags, _ IO) error {
	k, err := agent.NewPrivateKey()
	if err != nil {
		return err
	}
	if err := k.Write(f.keyFile); err != nil {
		return err
	}
	// The kubelet made this file, and may not see another one under its name.
	if err := os.WriteFile(f.message, []byte(k.Public()), 0o600); err != nil {
		return fmt.Errorf("writing the public key: %w", err)
	}
	return nil
}

func watch(ctx context.Context, f flags, streams IO) error {
	f.agent().Watch(ctx, f.patience, slog.New(slog.NewJSONHandler(streams.Err, nil)))
	return nil
}

func apply(ctx context.Context, f flags, streams IO) error {
	order, err := readOrder(streams.In)
	if err != nil {
		return err
	}
	a := f.agent()
	if a.PodUID = os.Getenv(PodUIDVariable); a.PodUID == "" {
		return fmt.Errorf("%s is not set to the UID of this pod", PodUIDVariable)
	}
	if a.Key, err = agent.ReadPrivateKey(f.keyFile); err != nil {
		return err
	}
	if err := json.NewEncoder(streams.Out).Encode(a.Apply(ctx, order)); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// readOrder reads an order strictly: an older agent must not skip a member that it does not know.
func readOrder(in io.Reader) (order agent.Order, err error) {
	text, err := io.ReadAll(io.LimitReader(in, maxOrder+1))
	if err != nil {
		return order, fmt.Errorf("reading the order: %w", err)
	}
	defer clear(text)
	if len(text) > maxOrder {
		return order, fmt.Errorf("reading the order: it is longer than %d bytes", maxOrder)
	}
	strict, err := sigsjson.UnmarshalStrict(text, &order)
	if err = errors.Join(append(strict, err)...); err != nil {
		return order, fmt.Errorf("reading the order: %w", err)
	}
	return order, nil
}
