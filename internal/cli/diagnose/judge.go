package diagnose

import (
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keyturn/keyturn/internal/hint"
)

// adminChecks are about Keyturn in the admin cluster, in their order.
var adminChecks = []func(Facts) *Check{
	checkAdminServer, checkAdminClock, checkRights, checkDefinition, checkPolicies, checkDeployment, checkLease,
}

// clusterChecks are about one UserCluster, in their order.
var clusterChecks = []func(Facts, ClusterFacts) *Check{
	checkObject, checkConditions, checkKeySecrets, checkKeyAge, checkServers, checkPublications, checkTokens,
	checkLeftovers,
}

// reachChecks ask the user cluster itself, in their order.
var reachChecks = []func(Facts, ClusterFacts) *Check{
	checkAccess, checkUserServer, checkUserClock, checkClusterAPI, checkControlPlane, checkNodes, checkWorkloads,
}

// Judge maps facts to a report. now is the time of this machine.
func Judge(f Facts, now time.Time) Report {
	r := Report{At: now.UTC(), Program: f.Program, Checks: []Check{}}
	for _, check := range adminChecks {
		r.add(check(f))
	}
	if c := f.Cluster; c != nil {
		r.Cluster = c.Object.Namespace + "/" + c.Object.Name
		for _, check := range slices.Concat(clusterChecks, reachChecks) {
			r.add(check(f, *c))
		}
	}
	r.Healthy = r.Count(Fail) == 0
	return r
}

// add adds a check; nil is one that does not apply.
func (r *Report) add(c *Check) {
	if c != nil {
		r.Checks = append(r.Checks, *c)
	}
}

// unread adds why something was not read: a check that the caller may not make is skipped. It reports whether it did.
func (c *Check) unread(err error, advice, what string) bool {
	switch {
	case err == nil:
		return false
	case apierrors.IsForbidden(err):
		c.skip("have a role bound to you that allows it", "you may not read %s", what)
	default:
		if own := hint.Of(err); own != "" {
			advice = own
		}
		c.fail(advice, "reading %s: %v", what, err)
	}
	return true
}

// now is the time on the clock of the admin cluster, by which its Leases are renewed.
func (f Facts) now() time.Time { return f.Admin.Server.Value.At }

// maxSkew is how far two clocks may be apart. API servers take a token from up to a minute ahead of their clock.
const maxSkew = 10 * time.Second

// clockAdvice is what to do about a clock that is wrong.
const clockAdvice = "have both set their clocks by NTP: API servers refuse tokens from more than a minute ahead"
