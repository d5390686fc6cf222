package probe

import (
	"github.com/keyturn/keyturn/internal/hint"

	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
)

func reportCommand(env Env) *cobra.Command {
	var kubeconfig, output string
	namespace := DefaultDeployment().Namespace
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Summarize what all pods observed",
		Long: "Summarize what all pods observed, including pods that are gone. Exits with 1 if a token was\n" +
			"refused that must be accepted. A legacy token may be refused after its Secret was overwritten, until its file\n" +
			"follows, or until the pod that has copied it ends.",
		Example: "  keyturn-probe report --kubeconfig user-kubeconfig\n" +
			"  keyturn-probe report --kubeconfig user-kubeconfig -o json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("output %q is neither table nor json", output)
			}
			s, err := summary(cmd.Context(), kubeconfig, namespace)
			if err != nil {
				return failed(err)
			}
			if err := write(env, s, output); err != nil {
				return failed(err)
			}
			return verdict(s)
		},
	}
	f := cmd.Flags()
	f.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig of the user cluster (default: as kubectl finds it)")
	f.StringVarP(&namespace, "namespace", "n", namespace, "namespace of the pods")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func summary(ctx context.Context, kubeconfig, namespace string) (Summary, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return Summary{}, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	client, err := typedcorev1.NewForConfig(config)
	if err != nil {
		return Summary{}, fmt.Errorf("reaching the cluster: %w", err)
	}
	reports, err := Collect(ctx, client.ConfigMaps(namespace))
	if err != nil {
		return Summary{}, err
	}
	return Summarize(reports), nil
}

func write(env Env, s Summary, output string) error {
	if output == "table" {
		return s.Print(env.Stdout)
	}
	encoder := json.NewEncoder(env.Stdout)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(s); err != nil {
		return fmt.Errorf("writing the summary: %w", err)
	}
	return nil
}

// verdict converts a summary to an exit code.
func verdict(s Summary) error {
	if s.Failed() {
		return exitError{code: exitRefused, error: errors.New("a token was refused that must be accepted")}
	}
	if unused := s.Unused(); len(unused) > 0 {
		return failed(hint.Errorf("check that the pods are running with `kubectl -n keyturn-probe get pods`",
			"no token of kind %v was ever accepted, so nothing is proven", unused))
	}
	return nil
}
