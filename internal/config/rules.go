package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// values are the fields that hold one of a few values, by path. A cluster that somebody else made may have fewer ways
// of refreshing its nodes.
var values = map[string][]string{
	"apiVersion":                       {"v1"},
	"kind":                             {"UserCluster"},
	"enableControlplaneV2":             {"true"},
	"masterNode.replicas":              {"1", "3"},
	"ksaSigningKey.source":             {string(v1alpha1.KeySourceExternal), string(v1alpha1.KeySourceFiles)},
	"ksaSigningKey.algorithm":          {string(v1alpha1.RS256), string(v1alpha1.ES256)},
	"ksaSigningKey.retire":             {string(v1alpha1.RetireAfterRefresh), string(v1alpha1.RetireWhenUnused)},
	"infrastructure.clusterAPI.method": {string(v1alpha1.MethodInPlace), string(v1alpha1.MethodRollout)},
	"ksaSigningKey.nodeRefresh": {
		string(v1alpha1.NodeRefreshReplace), string(v1alpha1.NodeRefreshInPlace), string(v1alpha1.NodeRefreshWait),
		string(v1alpha1.NodeRefreshEvict),
	},
	"nodePools[].taints[].effect": {
		string(corev1.TaintEffectNoSchedule), string(corev1.TaintEffectPreferNoSchedule),
		string(corev1.TaintEffectNoExecute),
	},
}

// durations are the shortest and the longest value of the fields that hold a duration, in whole seconds.
var durations = map[string][2]time.Duration{
	"ksaSigningKey.tokenReload":   {time.Second, 24 * time.Hour},
	"ksaSigningKey.retireTimeout": {time.Second, 365 * 24 * time.Hour},
	"ksaSigningKey.publishMaxAge": {time.Second, week},
	"gkeConnect.propagationTime":  {0, week},
}

// counts are the lowest and the highest value of the fields that count nodes.
var counts = map[string][2]int32{
	"nodePools[].replicas":                              {0, maxReplicas},
	"nodePools[].updateStrategy.rollingUpdate.maxSurge": {1, maxReplicas},
}

// Rule returns what the field at a path, such as "nodePools[].replicas", must be: "0 to 100". It is empty when the type
// of the field, or the text of its problem, says everything.
func Rule(path string) string {
	path = listIndex.ReplaceAllString(path, "[]")
	if allowed, ok := values[path]; ok {
		return strings.Join(allowed, " or ")
	}
	if d, ok := durations[path]; ok {
		return short(d[0]) + " to " + short(d[1])
	}
	if n, ok := counts[path]; ok {
		return fmt.Sprintf("%d to %d", n[0], n[1])
	}
	return ""
}

// OnlyLocal reports whether a field, such as "network", describes how Keyturn makes a cluster: a file that names a
// cluster of somebody else does not have it.
func OnlyLocal(field string) bool {
	return slices.ContainsFunc(ofLocal, func(f localField) bool { return f.field == field })
}

// oneOf wants one of the values of a field.
func (d *decoder) oneOf(path, value string) {
	allowed := values[listIndex.ReplaceAllString(path, "[]")]
	if d.required(path, value) && !slices.Contains(allowed, value) {
		d.problem(path, "must be %s, not %q", Rule(path), value)
	}
}

// between wants a duration within the limits of a field.
func (d *decoder) between(path string, value time.Duration) {
	limits := durations[path]
	switch {
	case value < limits[0] || value > limits[1]:
		d.problem(path, "must be %s, not %s", Rule(path), short(value))
	case value%time.Second != 0:
		d.problem(path, "must be whole seconds, not %s", value)
	}
}

// count wants a number within the limits of a field, and says why where there is a reason.
func (d *decoder) count(path string, value int32, why string) {
	limits := counts[listIndex.ReplaceAllString(path, "[]")]
	if value < limits[0] || value > limits[1] {
		d.problem(path, "must be %s, not %d%s", Rule(path), value, why)
	}
}
