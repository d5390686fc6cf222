package controller

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/inuse"
	"github.com/keyturn/keyturn/internal/rotation"
)

// gauges are all of those below.
var gauges []*prometheus.GaugeVec

var (
	metricStep       = gauge("rotation_step", "1 for the current step of the rotation, 0 for the others.", "step")
	metricKeyCreated = gauge("key_version_created_timestamp_seconds",
		"When the key version was stored, in seconds since the epoch; time() minus it is its age.", "version")
	metricStale = gauge("legacy_tokens_stale",
		"Legacy tokens that are still to be refreshed, as of the last check.")
	metricOldTokens = gauge("old_key_tokens",
		"Valid tokens of the old key while a rotation runs, by kind; for kind Unknown, the number is a lower bound.", "kind")
	metricHolders = gauge("pods_with_old_tokens",
		"Running pods that keep a token of an older key version until they restart, as of the last list of pods.")
	metricLastSuccess = gauge("rotation_last_success_timestamp_seconds",
		"When the latest rotation was complete, in seconds since the epoch.")
	metricBlocked     = gauge("rotation_blocked", "1 while the rotation is blocked until somebody acts.")
	metricRoundFailed = gauge("round_failed", "1 if the last round of the controller for the cluster failed, else 0.")
	metricLastRound   = gauge("round_last_success_timestamp_seconds",
		"When the controller last ended a round for the cluster without an error, in seconds since the epoch.")
)

// countRound records how a round ended.
func countRound(name types.NamespacedName, err error, now time.Time) {
	metricRoundFailed.With(labelsOf(name)).Set(truth(err != nil))
	if err == nil {
		metricLastRound.With(labelsOf(name)).Set(float64(now.Unix()))
	}
}

func gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "keyturn", Name: name, Help: help},
		append([]string{"namespace", "name"}, labels...))
	metrics.Registry.MustRegister(g)
	gauges = append(gauges, g)
	return g
}

// Metrics returns the metrics of a controller, which are registered in metrics.Registry.
func Metrics() (all []prometheus.Collector) {
	for _, g := range gauges {
		all = append(all, g)
	}
	return all
}

var steps = []rotation.Step{
	rotation.StepGenerate, rotation.StepPublish, rotation.StepSwitch, rotation.StepRefresh, rotation.StepRetire,
}

func observeMetrics(uc *v1alpha1.UserCluster) {
	k := uc.Status.KSASigningKey
	for _, s := range steps {
		metricStep.WithLabelValues(uc.Namespace, uc.Name, string(s)).Set(truth(k.Step == string(s)))
	}
	metricKeyCreated.DeletePartialMatch(labelsOf(client.ObjectKeyFromObject(uc)))
	for _, key := range k.Keys {
		metricKeyCreated.WithLabelValues(uc.Namespace, uc.Name,
			strconv.Itoa(int(key.Version))).Set(float64(key.CreatedAt.Unix()))
	}
	metricStale.WithLabelValues(uc.Namespace, uc.Name).Set(float64(k.LegacyTokens.Stale))
	metricOldTokens.DeletePartialMatch(labelsOf(client.ObjectKeyFromObject(uc)))
	if k.Tokens != nil && k.Tokens.ObservedAt != nil && len(k.Keys) == 2 {
		for _, kind := range inuse.Kinds {
			metricOldTokens.WithLabelValues(uc.Namespace, uc.Name, string(kind)).Set(float64(oldCount(k.Tokens, kind)))
		}
	}
	holders := int64(0)
	if k.OldTokens != nil {
		holders = k.OldTokens.Total
	}
	metricHolders.WithLabelValues(uc.Namespace, uc.Name).Set(float64(holders))
	if k.CompletedAt != nil {
		metricLastSuccess.WithLabelValues(uc.Namespace, uc.Name).Set(float64(k.CompletedAt.Unix()))
	}
	metricBlocked.WithLabelValues(uc.Namespace, uc.Name).Set(truth(isBlocked(uc)))
}

// oldCount returns the number of tokens of a kind that the old key signed.
func oldCount(s *v1alpha1.TokensStatus, kind inuse.Kind) int64 {
	for _, c := range s.Old {
		if c.Kind == v1alpha1.TokenKind(kind) {
			return c.Count
		}
	}
	return 0
}

func forgetMetrics(name types.NamespacedName) {
	for _, g := range gauges {
		g.DeletePartialMatch(labelsOf(name))
	}
}

func labelsOf(name types.NamespacedName) prometheus.Labels {
	return prometheus.Labels{"namespace": name.Namespace, "name": name.Name}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
