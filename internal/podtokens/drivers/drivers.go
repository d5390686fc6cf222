// Package drivers reads from a cluster which CSI drivers get tokens of pods, and which driver serves which volume.
package drivers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/podtokens"
)

// Read reads what podtokens.Of needs to know about drivers, in pages of the given size. It reads claims only if some
// driver requests tokens.
func Read(ctx context.Context, client kubernetes.Interface, pageSize int64) (podtokens.Cluster, error) {
	c, err := ReadDrivers(ctx, client, pageSize)
	if err != nil || len(c.Drivers) == 0 {
		return c, err
	}
	c.Claims, err = claims(ctx, client, pageSize)
	return c, err
}

// ReadDrivers is Read without the claims, for a caller that reads the PersistentVolumes itself and uses Claim for each.
func ReadDrivers(ctx context.Context, client kubernetes.Interface, pageSize int64) (podtokens.Cluster, error) {
	c := podtokens.Cluster{Drivers: map[string]podtokens.CSIDriver{}}
	err := eachPage(pageSize, func(o metav1.ListOptions) (string, error) {
		list, err := client.StorageV1().CSIDrivers().List(ctx, o)
		if err != nil {
			return "", fmt.Errorf("listing CSIDrivers: %w", err)
		}
		for _, d := range list.Items {
			if len(d.Spec.TokenRequests) > 0 {
				c.Drivers[d.Name] = driverOf(d.Spec)
			}
		}
		return list.Continue, nil
	})
	return c, err
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

// claims returns the drivers that serve PersistentVolumeClaims.
func claims(ctx context.Context, client kubernetes.Interface, pageSize int64) (map[types.NamespacedName]string, error) {
	served := map[types.NamespacedName]string{}
	err := eachPage(pageSize, func(o metav1.ListOptions) (string, error) {
		list, err := client.CoreV1().PersistentVolumes().List(ctx, o)
		if err != nil {
			return "", fmt.Errorf("listing PersistentVolumes: %w", err)
		}
		for i := range list.Items {
			if claim, driver := Claim(&list.Items[i]); driver != "" {
				served[claim] = driver
			}
		}
		return list.Continue, nil
	})
	return served, err
}

// Claim returns the PersistentVolumeClaim of a volume and the driver that serves it; an empty driver if there is none.
func Claim(v *corev1.PersistentVolume) (claim types.NamespacedName, driver string) {
	if v.Spec.ClaimRef == nil || v.Spec.CSI == nil {
		return types.NamespacedName{}, ""
	}
	return types.NamespacedName{Namespace: v.Spec.ClaimRef.Namespace, Name: v.Spec.ClaimRef.Name}, v.Spec.CSI.Driver
}

// eachPage calls list for each page.
func eachPage(pageSize int64, list func(metav1.ListOptions) (next string, err error)) error {
	o := metav1.ListOptions{Limit: pageSize}
	for {
		next, err := list(o)
		if err != nil || next == "" {
			return err
		}
		o.Continue = next
	}
}
