package controllercmd

import (
	"errors"
	"flag"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	metricsfilters "sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
)

// managerFlags are the flags of the manager.
type managerFlags struct {
	options       controller.Options
	leaderElect   bool
	election      controller.Election
	secrets       []string
	metricsSecure bool
	metricsCerts  string
}

// addFlags adds them to a set.
func (f *managerFlags) addFlags(set *flag.FlagSet) {
	set.DurationVar(&f.options.SettledInterval, "settled-interval", controller.DefaultSettledInterval,
		"how long after a round a settled cluster is proven again, plus or minus a fifth")
	set.IntVar(&f.options.Workers, "workers", controller.DefaultWorkers,
		"how many clusters are worked on at the same time; those that only wait do not count")
	set.DurationVar(&f.options.RoundTimeout, "round-timeout", controller.DefaultRoundTimeout,
		"how long one round for one cluster may take")
	set.BoolVar(&f.leaderElect, "leader-elect", true, "use leader election between several controllers")
	set.StringVar(&f.election.Namespace, "leader-election-namespace", v1alpha1.SystemNamespace,
		"`namespace` of the Lease that controllers share")
	set.StringVar(&f.election.ID, "leader-election-id", "keyturn-controller",
		"`name` of the Lease that controllers share")
	set.Func("secrets-namespace", "`namespace` whose Secrets are watched; can be repeated (default: all)", f.addNamespace)
	set.BoolVar(&f.metricsSecure, "metrics-secure", false,
		"serve /metrics with TLS, to users whom the admin cluster authenticates and authorizes")
	set.StringVar(&f.metricsCerts, "metrics-cert-dir", "",
		"`directory` of tls.crt and tls.key for --metrics-secure (default: a self-signed certificate)")
}

func (f *managerFlags) addNamespace(value string) error {
	if problems := validation.ValidateNamespaceName(value, false); len(problems) > 0 {
		return errors.New(problems[0])
	}
	f.secrets = append(f.secrets, value)
	return nil
}

// validate returns an error with everything that is wrong with the flags.
func (f *managerFlags) validate() error {
	err := f.options.Validate()
	if f.leaderElect && (f.election.Namespace == "" || f.election.ID == "") {
		err = errors.Join(err, errors.New("--leader-elect needs --leader-election-namespace and --leader-election-id"))
	}
	if f.metricsCerts != "" && !f.metricsSecure {
		err = errors.Join(err, errors.New("--metrics-cert-dir needs --metrics-secure"))
	}
	if err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

// managerOptions returns the options of the manager.
func (f *managerFlags) managerOptions(metrics, health string) controller.ManagerOptions {
	o := controller.ManagerOptions{
		Metrics: server.Options{BindAddress: metrics}, HealthAddress: health, SecretNamespaces: f.secrets,
	}
	if f.leaderElect {
		o.Election = f.election
	}
	if f.metricsSecure {
		o.Metrics.SecureServing, o.Metrics.CertDir = true, f.metricsCerts
		o.Metrics.FilterProvider = metricsfilters.WithAuthenticationAndAuthorization
	}
	return o
}
