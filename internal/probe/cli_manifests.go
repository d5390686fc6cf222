package probe

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func manifestsCommand(env Env) *cobra.Command {
	d := DefaultDeployment()
	var w WorkloadIdentityDeployment
	var caFile string
	var workloads []string
	cmd := &cobra.Command{
		Use:     "manifests",
		Short:   "Print the objects that run the probe in a cluster",
		Example: "  keyturn-probe manifests --replicas 3 | kubectl --kubeconfig user-kubeconfig apply -f -",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			for _, name := range workloads {
				d.Workloads = append(d.Workloads, Workload(name))
			}
			if err := d.addIdentity(w, caFile); err != nil {
				return failed(err)
			}
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
	f.Float64Var(&d.Rate, "rate", d.Rate, "uses per second of each kind of token at each API server")
	f.StringSliceVar(&d.Servers, "api-servers", nil,
		"URLs of the individual API servers (default: those of the service kubernetes)")
	f.StringSliceVar(&workloads, "workloads", nil,
		fmt.Sprintf("also run pods that get their tokens in these ways: some of %v", Workloads()))
	f.StringVar(&w.ProjectID, "workload-identity-project", "",
		"project ID of the fleet that gives the pods a workload identity (default: none)")
	f.StringVar(&w.Location, "workload-identity-location", "", "location of the cluster's membership in the fleet")
	f.StringVar(&w.Membership, "workload-identity-membership", "", "name of the cluster's membership in the fleet")
	f.StringVar(&w.STSEndpoint, "workload-identity-sts", "",
		"URL of the security token service, such as https://sts.googleapis.com")
	f.StringVar(&w.Resource, flagIdentityResource, "", "URL at which access tokens of the workload identity are used")
	f.StringVar(&caFile, flagIdentityCAFile, "",
		"certificates that verify the security token service and the resource")
	return cmd
}

// addIdentity adds a workload identity if any of its flags is set.
func (d *Deployment) addIdentity(w WorkloadIdentityDeployment, caFile string) error {
	if caFile != "" {
		bundle, err := os.ReadFile(caFile)
		if err != nil {
			return fmt.Errorf("reading the certificates of the security token service: %w", err)
		}
		w.CABundle = string(bundle)
	}
	if caFile != "" || w != (WorkloadIdentityDeployment{}) {
		d.WorkloadIdentity = &w
	}
	return nil
}
