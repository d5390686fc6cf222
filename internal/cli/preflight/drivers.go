package preflight

import (
	"context"

	"github.com/keyturn/keyturn/internal/podtokens/drivers"
)

// drivers learns which CSI drivers get tokens of the pods that use their volumes.
func (i *inspection) drivers(ctx context.Context) error {
	found, err := drivers.Read(ctx, i.client, i.pageSize)
	i.cluster.Drivers, i.cluster.Claims = found.Drivers, found.Claims
	return err
}
