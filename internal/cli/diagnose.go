package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/diagnose"
	"github.com/keyturn/keyturn/internal/cli/diagnose/snapshot"
	"github.com/keyturn/keyturn/internal/version"
)

func (a *app) diagnose() *cobra.Command {
	return group(&cobra.Command{
		Use: "diagnose", Short: "Find out what is wrong with a cluster, or make a support bundle",
		Example: "  gkectl diagnose cluster --kubeconfig kubeconfig --cluster-name my-cluster\n" +
			"  gkectl diagnose snapshot --kubeconfig kubeconfig --cluster-name my-cluster",
	}, a.diagnoseCluster(), a.diagnoseSnapshot())
}

func (a *app) diagnoseCluster() *cobra.Command {
	var o output
	cmd := diagnoseCommand(&o)
	cmd.Use = "cluster"
	cmd.Example = `  gkectl diagnose cluster --kubeconfig kubeconfig
  gkectl diagnose cluster --kubeconfig kubeconfig --cluster-name my-cluster
  gkectl diagnose cluster --kubeconfig kubeconfig --cluster-name my-cluster -o json`
	return a.ofNamed(cmd, "the admin cluster alone", func(ctx context.Context, c admin, name string) error {
		return a.diagnoseOne(ctx, c, name, o)
	})
}

func (a *app) diagnoseSnapshot() *cobra.Command {
	var path string
	cmd := snapshotCommand(&path)
	cmd.Example = `  gkectl diagnose snapshot --kubeconfig kubeconfig --cluster-name my-cluster
  gkectl diagnose snapshot --kubeconfig kubeconfig --output snapshot.tar.gz`
	return a.ofNamed(cmd, "all of the namespace", func(ctx context.Context, c admin, name string) error {
		return a.snapshot(ctx, c, name, path)
	})
}

// ofNamed makes a command of gkectl act on the user cluster that --cluster-name names; without is what it then acts on
// if the name is empty.
func (a *app) ofNamed(
	cmd *cobra.Command, without string, act func(ctx context.Context, c admin, name string) error,
) *cobra.Command {
	var name, kubeconfig, namespace string
	cmd.Flags().StringVar(&name, "cluster-name", "", "`name` of the user cluster; without it, "+without)
	must(cmd.RegisterFlagCompletionFunc("cluster-name", a.completeClusters(&kubeconfig)))
	kubeconfigFlag(cmd, &kubeconfig)
	namespaceFlag(cmd, &namespace)
	return a.verb(cmd, func(ctx context.Context) error {
		c, err := a.connect(kubeconfig)
		if err != nil {
			return err
		}
		return act(ctx, c.in(namespace), name)
	})
}

// diagnoseCommand is `diagnose cluster` of gkectl and `diagnose` of the plugin, without what names the cluster.
func diagnoseCommand(o *output) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diagnose",
		Short: "Check everything that a rotation of a user cluster needs",
		Long: `Check everything that a rotation of a user cluster needs, and say for each problem what to do: the admin
cluster, the controller and what is installed there, the UserCluster and its keys, and the user cluster itself, with its
control plane, nodes and workloads. Without the name of a cluster, the admin cluster alone is checked.

Nothing is changed, and of Secrets only the metadata is read, but for the one with the kubeconfig of the user cluster.
What you may not read is skipped.

The exit code is 0 if no check failed, and 6 if one did. Warnings and skipped checks do not count.`,
	}
	outputFlag(cmd, o, "text", "json", "yaml")
	return cmd
}

// snapshotCommand is `snapshot` of both programs, without what names the cluster.
func snapshotCommand(path *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Write a support bundle, without secrets",
		Long: `Write a support bundle: a gzipped tar archive with the UserCluster and its status, events, the Deployment,
pods, Leases and logs of the controller, the admission policies, versions, and what diagnosing finds. Without the name
of a cluster it has all UserClusters of the namespace.

It has no data of Secrets, no kubeconfig and no token. Texts that could be a key, a token or a password are taken out,
and nothing is written if a key or a token is found after that.`,
	}
	cmd.Flags().StringVar(path, "output", "", "`file` to write; empty: one named after the cluster and the time")
	must(cmd.MarkFlagFilename("output", "tar.gz"))
	return cmd
}

func (a *app) diagnoseOne(ctx context.Context, c admin, name string, o output) error {
	report, err := a.examine(ctx, c, name)
	if err != nil {
		return err
	}
	if err := o.write(a.Out, report, report.Write); err != nil {
		return err
	}
	if !report.Healthy {
		return &exitError{ExitUnhealthy, fmt.Errorf("checks that failed: %d", report.Count(diagnose.Fail))}
	}
	return nil
}

// examine diagnoses a cluster; the admin cluster alone if the name is empty.
func (a *app) examine(ctx context.Context, c admin, name string) (diagnose.Report, error) {
	progress := a.lateProgress()
	defer progress.end()
	source := diagnose.Source{
		Config: c.config, Namespace: c.namespace, Program: version.Get().Version, Preview: c.program.preview,
		Down:  c.program.down,
		Reach: c.clientConfig, Progress: progress.show,
	}
	facts, err := diagnose.Gather(ctx, source)
	if err == nil && name != "" && facts.Admin.Serves() {
		var uc *v1alpha1.UserCluster
		if uc, err = c.existing(ctx, name); err == nil {
			facts.Cluster, err = diagnose.GatherCluster(ctx, source, uc)
		}
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return diagnose.Judge(facts, a.Now()), err
}

func (a *app) snapshot(ctx context.Context, c admin, name, path string) error {
	now := a.Now().UTC()
	directory := "snapshot-" + orAdmin(name) + "-" + now.Format("20060102T150405Z")
	if path == "" {
		path = directory + ".tar.gz"
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return usage("name another file with --output", "%s exists already", path)
	}
	report, err := a.examine(ctx, c, name)
	if err != nil {
		return err
	}
	clusters, err := c.named(ctx, name)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := report.Write(&text); err != nil {
		return err
	}
	progress := a.lateProgress()
	defer progress.end()
	archive, err := snapshot.Take(ctx, snapshot.Source{
		Config: c.config, Clusters: clusters.Items, Progress: progress.show,
		Reports: map[string]any{"diagnose-report/report.json": report, "version.json": version.Get()},
		Texts:   map[string]string{"diagnose-report/report.txt": text.String()},
	}, directory, now)
	if err != nil {
		return failed("nothing was written", "making a support bundle: %w", err)
	}
	if err := writeBundle(path, archive); err != nil {
		return fmt.Errorf("writing the support bundle: %w", err)
	}
	progress.end()
	fmt.Fprintf(a.Out, "Support bundle %s is written. Read it before you give it away.\n", path)
	return nil
}

func orAdmin(name string) string {
	if name == "" {
		return "admin"
	}
	return name
}

// writeBundle writes a file that does not exist yet, which only its owner may read.
func writeBundle(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(content))
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// patience is how long a verb may take before it shows what it does.
const patience = 2 * time.Second

// lateProgress shows progress of what takes longer than patience.
type lateProgress struct {
	mu       sync.Mutex
	progress *progress
	timer    *time.Timer
	step     string
	late     bool
}

func (a *app) lateProgress() *lateProgress {
	l := &lateProgress{progress: a.progress()}
	l.timer = time.AfterFunc(patience, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.late = true
		if l.step != "" {
			l.progress.show(l.step, "")
		}
	})
	return l
}

// show takes what is done now.
func (l *lateProgress) show(step string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.step = step
	if l.late {
		l.progress.show(step, "")
	}
}

// end ends it; it can be called twice.
func (l *lateProgress) end() {
	l.timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late, l.step = false, ""
	l.progress.finish()
	l.progress.end()
}
