package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// The labels and keys of reports.
const (
	labelApp  = "app.kubernetes.io/name"
	appName   = "keyturn-probe"
	reportKey = "report.json"
)

// keepSaving stores the report whenever it has changed, until ctx ends.
func (r *runner) keepSaving(ctx context.Context) {
	tick := time.NewTicker(r.Save)
	defer tick.Stop()
	var saved time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		report := r.rec.snapshot()
		if report.UpdatedAt.Equal(saved) {
			continue
		}
		if err := r.save(ctx, report, r.Timeout); err != nil {
			r.Log.Warn("cannot store the report; retrying", "error", err)
			continue
		}
		saved = report.UpdatedAt
	}
}

// saveLast stores the last report, although ctx has ended.
func (r *runner) saveLast(ctx context.Context) {
	if r.core == nil {
		return
	}
	report := r.rec.snapshot()
	report.Ended = true
	if err := r.save(context.WithoutCancel(ctx), report, r.SaveLast); err != nil {
		r.Log.Error("cannot store the last report", "error", err)
	}
}

func (r *runner) save(ctx context.Context, report Report, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	data, err := json.Marshal(report)
	if err != nil {
		return fmt.Errorf("encoding the report: %w", err)
	}
	name := configMapName(report)
	apply := applycorev1.ConfigMap(name, r.Namespace).
		WithLabels(map[string]string{labelApp: appName}).
		WithData(map[string]string{reportKey: string(data)})
	_, err = r.core.ConfigMaps(r.Namespace).Apply(ctx, apply, metav1.ApplyOptions{FieldManager: appName, Force: true})
	if err != nil {
		return fmt.Errorf("writing ConfigMap %s: %w", name, err)
	}
	return nil
}

// configMapName includes the pod, the workload and its start, so that neither a restarted container nor another
// container of the pod overwrites anything.
func configMapName(r Report) string {
	name := "keyturn-probe-" + r.Pod + "-"
	if r.Workload != "" {
		name += string(r.Workload) + "-"
	}
	return name + strconv.FormatInt(r.StartedAt.UnixMilli(), 36)
}

// Collect returns the reports of all pods that ever ran in a namespace.
func Collect(ctx context.Context, configMaps typedcorev1.ConfigMapInterface) ([]Report, error) {
	list, err := configMaps.List(ctx, metav1.ListOptions{LabelSelector: labelApp + "=" + appName})
	if err != nil {
		return nil, fmt.Errorf("listing the reports: %w", err)
	}
	var reports []Report
	var errs []error
	for _, c := range list.Items {
		if !strings.HasPrefix(c.Name, "keyturn-probe-") || c.Data[reportKey] == "" {
			continue
		}
		var r Report
		if err := json.Unmarshal([]byte(c.Data[reportKey]), &r); err != nil {
			errs = append(errs, fmt.Errorf("decoding ConfigMap %s: %w", c.Name, err))
			continue
		}
		reports = append(reports, r)
	}
	return reports, errors.Join(errs...)
}
