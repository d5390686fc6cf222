package probe

import (
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/hint"
)

func runCommand(env Env) *cobra.Command {
	o := defaults()
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Use the tokens of this pod until it is stopped",
		Long: "Use the tokens of this pod until it is stopped. Serves /metrics, /report and /readyz, and stores the\n" +
			"report in a ConfigMap of the pod's namespace.",
		Example: "  keyturn-probe run --rate 10\n" +
			"  keyturn-probe run --api-servers https://10.0.0.11:6443,https://10.0.0.12:6443",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(o.Workload.validate(), o.WorkloadIdentity.validate()); err != nil {
				return err
			}
			if err := inPod(env, &o); err != nil {
				return failed(err)
			}
			o.Log = slog.New(slog.NewTextHandler(env.Stderr, nil))
			return failed(run(cmd.Context(), o))
		},
	}
	f := cmd.Flags()
	f.StringVar((*string)(&o.Workload), "workload", "", fmt.Sprintf("how the pod gets its tokens: one of %v "+
		"(default: it reads mounted tokens again for each use)", Workloads()))
	f.StringSliceVar(&o.Servers, "api-servers", nil, "URLs of the API servers (default: those of the service kubernetes)")
	f.Float64Var(&o.Rate, "rate", o.Rate, "uses per second of each kind of token at each API server")
	f.DurationVar(&o.Timeout, "timeout", o.Timeout, "how long a use may take")
	f.StringVar(&o.Listen, "listen", o.Listen, "address of /metrics, /report and /readyz")
	f.StringVar(&o.Audience, "audience", o.Audience, "audience of the third-party token")
	f.StringVar(&o.LegacySecret, "legacy-secret", o.LegacySecret,
		"Secret of the legacy token, to measure how long its file lags behind")
	f.StringVar(&o.Files.Bound, "bound-token-file", o.Files.Bound, "file of the bound token")
	f.StringVar(&o.Files.Legacy, "legacy-token-file", o.Files.Legacy, "file of the legacy token")
	f.StringVar(&o.Files.ThirdParty, "third-party-token-file", o.Files.ThirdParty, "file of the third-party token")
	f.StringVar(&o.CAFile, "ca-file", o.CAFile, "certificates that verify API servers")
	w := &o.WorkloadIdentity
	f.StringVar(&w.CredentialsFile, flagCredentialsFile, "",
		"credentials file (external_account) of the pod's workload identity")
	f.StringVar(&w.CAFile, flagIdentityCAFile, "",
		"certificates that verify the security token service and the resource")
	f.StringVar(&w.Resource, flagIdentityResource, "", "URL at which access tokens of the workload identity are used")
	return cmd
}

// inPod reads the pod's identity, and how to reach its cluster, from its environment.
func inPod(env Env, o *options) error {
	o.LegacyToken = env.Getenv(legacyTokenVariable)
	o.Pod, o.Namespace, o.Node = env.Getenv("POD_NAME"), env.Getenv("POD_NAMESPACE"), env.Getenv("NODE_NAME")
	host, port := env.Getenv("KUBERNETES_SERVICE_HOST"), env.Getenv("KUBERNETES_SERVICE_PORT")
	if o.Pod == "" || o.Namespace == "" || host == "" || port == "" {
		return hint.Errorf("run it as a pod, from the output of `keyturn-probe manifests`",
			"POD_NAME, POD_NAMESPACE, KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set")
	}
	o.Config = &rest.Config{
		Host:            "https://" + net.JoinHostPort(host, port),
		BearerTokenFile: o.Files.Bound,
		TLSClientConfig: rest.TLSClientConfig{CAFile: o.CAFile},
		UserAgent:       "keyturn-probe",
	}
	return nil
}
