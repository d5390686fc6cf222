package preflight

import (
	"context"
	"fmt"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/internal/podtokens"
)

// drivers learns which CSI drivers get tokens of the pods that use their volumes.
func (i *inspection) drivers(ctx context.Context) error {
	i.cluster.Drivers = map[string]podtokens.CSIDriver{}
	return i.eachPage(func(o metav1.ListOptions) (string, error) {
		list, err := i.client.StorageV1().CSIDrivers().List(ctx, o)
		if err != nil {
			return "", fmt.Errorf("listing CSIDrivers: %w", err)
		}
		for _, d := range list.Items {
			if len(d.Spec.TokenRequests) > 0 {
				i.cluster.Drivers[d.Name] = driverOf(d.Spec)
			}
		}
		return list.Continue, nil
	})
}

func driverOf(spec storagev1.CSIDriverSpec) podtokens.CSIDriver {
	d := podtokens.CSIDriver{Republishes: spec.RequiresRepublish != nil && *spec.RequiresRepublish}
	for _, r := range spec.TokenRequests {
		d.TokenRequests = append(d.TokenRequests, podtokens.Request{
			Audience: r.Audience, Expiration: podtokens.Seconds(r.ExpirationSeconds),
		})
	}
	return d
}
