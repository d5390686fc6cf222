package preflight

import (
	"cmp"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/podtokens"
)

// drivers learns which CSI drivers get tokens of the pods that use their volumes and, if any does, which of them serves
// which claim.
func (i *inspection) drivers(ctx context.Context) error {
	i.cluster.Drivers = map[string]podtokens.CSIDriver{}
	err := i.eachPage(func(o metav1.ListOptions) (string, error) {
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
	if err != nil || len(i.cluster.Drivers) == 0 {
		return err
	}
	return i.claims(ctx)
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

// claims learns which driver serves which PersistentVolumeClaim.
func (i *inspection) claims(ctx context.Context) error {
	i.cluster.Claims = map[types.NamespacedName]string{}
	return i.eachPage(func(o metav1.ListOptions) (string, error) {
		list, err := i.client.CoreV1().PersistentVolumes().List(ctx, o)
		if err != nil {
			return "", fmt.Errorf("listing PersistentVolumes: %w", err)
		}
		for _, v := range list.Items {
			csi := cmp.Or(v.Spec.CSI, &corev1.CSIPersistentVolumeSource{})
			if claim := v.Spec.ClaimRef; claim != nil && csi.Driver != "" {
				i.cluster.Claims[types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}] = csi.Driver
			}
		}
		return list.Continue, nil
	})
}
