package diagnose

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/preflight"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/printable"
)

const reachCategory = "Access to the cluster"

// soon is how long before a certificate expires somebody should know.
const soon = 30 * 24 * time.Hour

func checkAccess(f Facts, own ClusterFacts) *Check {
	c := newCheck(reachCategory, "kubeconfig")
	if c.unread(own.Access.Err, "docs/operations/recover.md names what to do",
		"the Secret with the kubeconfig of the cluster") {
		return c
	}
	at := own.Access.Value.Expires
	if at == nil {
		return c.saw("of %s", own.Access.Value.Endpoint)
	}
	c.saw("of %s, valid until %s", own.Access.Value.Endpoint, at.UTC().Format(time.DateOnly))
	advice := "give its Secret a new kubeconfig: the controller reaches the cluster by it"
	if !own.Object.Spec.Infrastructure.Adopted() {
		advice = "delete its Secret as docs/operations/recover.md describes; the controller writes it again"
	}
	switch left := at.Sub(f.now()); {
	case left <= 0:
		c.fail(advice, "the client certificate has expired")
	case left < soon:
		c.warn(advice, "the client certificate expires in %d days", int(left.Hours()/24))
	}
	return c
}

// reached returns a check of the user cluster itself; nil if there is no way to it, which checkAccess says.
func (own ClusterFacts) reached(name string) *Check {
	if own.Access.Err != nil {
		return nil
	}
	return newCheck(reachCategory, name)
}

func checkUserServer(_ Facts, own ClusterFacts) *Check {
	c := own.reached("Kubernetes API")
	if c == nil {
		return nil
	}
	if err := own.Server.Err; err != nil {
		return c.fail("check that it runs, and that a firewall lets you and the controller reach it",
			"the API server at %s does not answer: %v", own.Access.Value.Endpoint, err)
	}
	return c.saw("%s", own.Server.Value.Version)
}

// answers is reached if the API server answers, too.
func (own ClusterFacts) answers(name string) *Check {
	if own.Server.Err != nil {
		return nil
	}
	return own.reached(name)
}

func checkUserClock(f Facts, own ClusterFacts) *Check {
	c := own.answers("clock")
	if c == nil {
		return nil
	}
	return checkClock(c, own.Server.Value.Skew-f.Admin.Server.Value.Skew, "the admin cluster")
}

func checkClusterAPI(_ Facts, own ClusterFacts) *Check {
	if own.Object.Spec.Infrastructure.ClusterAPI == nil {
		return nil
	}
	c := newCheck(reachCategory, "Cluster API")
	if c.unread(own.ClusterAPI.Err, "see the Cluster, and the controllers of Cluster API", "the Cluster") {
		return c
	}
	if what := own.ClusterAPI.Value; what != "" {
		c.fail("have Cluster API reconcile it again", "Keyturn waits for %s", what)
	}
	return c
}

func checkControlPlane(_ Facts, own ClusterFacts) *Check {
	c := own.answers("control plane")
	if c == nil || !own.Object.Spec.Infrastructure.Adopted() {
		return nil
	}
	if c.unread(own.ControlPlane.Err, "", "the control plane") {
		return c
	}
	found := own.ControlPlane.Value
	c.saw("%d API servers, each asked alone", len(found.Servers))
	for _, p := range found.Problems {
		c.fail("", "%s", p)
	}
	for _, s := range found.Servers {
		c.alone(s, own.Server.Value)
	}
	return c
}

// alone adds what is wrong with one API server.
func (c *Check) alone(s LoneServer, other Server) {
	switch {
	case s.Leaving:
		c.warn("", "the node %s of an API server is being deleted: that one does not count", s.Node)
	case s.Unlabelled:
		c.fail("", "%s", s.Waiting)
	case s.Waiting != "":
		c.fail("start kube-apiserver there, or delete the node", "%s", s.Waiting)
	case s.Answer.Err != nil:
		c.fail("see its log on the node", "the API server on node %s is not ready alone, by a forwarded port of its pod: %v",
			s.Node,
			s.Answer.Err)
	case (s.Answer.Value.Skew - other.Skew).Abs() > maxSkew:
		c.warn(clockAdvice, "the clock of node %s is %s that of another API server", s.Node,
			apart(s.Answer.Value.Skew-other.Skew))
	}
}

func checkNodes(_ Facts, own ClusterFacts) *Check {
	c := own.answers("nodes")
	if c == nil || c.unread(own.Nodes.Err, "", "nodes") {
		return c
	}
	var away []string
	for _, n := range own.Nodes.Value {
		if !ready(n) {
			away = append(away, n.Name)
		}
	}
	c.saw("%d of %d ready", len(own.Nodes.Value)-len(away), len(own.Nodes.Value))
	if len(away) == 0 {
		return c
	}
	const text = "nodes are not ready, so tokens of their pods are not replaced"
	const advice = "`kubectl describe node` shows why; delete nodes that do not come back"
	if own.Object.Spec.NodeRefresh() == v1alpha1.NodeRefreshReplace {
		return c.warn(advice, text).about(away)
	}
	return c.fail(advice, text).about(away)
}

func ready(n corev1.Node) bool {
	return nodes.ReadyCondition(&n).Status == corev1.ConditionTrue
}

// checkWorkloads repeats what the preview of a rotation finds, without what is only worth to know.
func checkWorkloads(f Facts, own ClusterFacts) *Check {
	c := own.answers("workloads")
	if c == nil || c.unread(own.Preflight.Err, "", "what a rotation would meet") {
		return c
	}
	all := preflight.Merge(own.Preflight.Value.Findings, preflight.OfAlgorithm(own.Object))
	var notes int
	for n, finding := range all {
		result := map[preflight.Effect]Result{preflight.Stops: Fail, preflight.Breaks: Warning}[finding.Effect]
		switch {
		case result == "":
			notes++
			continue
		case n == 0 || all[n-1].Kind != finding.Kind:
			c.add(result, "", "%s", finding.Text)
		}
		c.about([]string{finding.Object.Kind + " " + finding.String()})
	}
	c.saw("%d holders of tokens", own.Preflight.Value.Holders)
	if notes > 0 {
		c.saw("%d holders of tokens; %d notes, which `%s` shows", own.Preflight.Value.Holders, notes, f.Preview)
	}
	return c
}

// about adds objects to the last problem.
func (c *Check) about(objects []string) *Check {
	last := &c.Problems[len(c.Problems)-1]
	for _, o := range objects {
		last.Objects = append(last.Objects, printable.Line(o))
	}
	return c
}
