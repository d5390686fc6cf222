package probe

import "github.com/spf13/cobra"

func manifestsCommand(env Env) *cobra.Command {
	d := DefaultDeployment()
	cmd := &cobra.Command{
		Use:     "manifests",
		Short:   "Print the objects that run the probe in a cluster",
		Example: "  keyturn-probe manifests --replicas 3 | kubectl --kubeconfig user-kubeconfig apply -f -",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := d.validate(); err != nil {
				return err
			}
			return failed(Manifests(env.Stdout, d))
		},
	}
	f := cmd.Flags()
	f.IntVar(&d.Replicas, "replicas", d.Replicas, "number of pods")
	f.StringVarP(&d.Namespace, "namespace", "n", d.Namespace, "namespace of the pods")
	f.StringVar(&d.Image, "image", d.Image, "image of keyturn-probe")
	f.Float64Var(&d.Rate, "rate", d.Rate, "uses a second of each kind of token at each API server")
	f.StringSliceVar(&d.Servers, "api-servers", nil, "URLs of the API servers, each by itself (default: those of the service kubernetes)")
	return cmd
}
