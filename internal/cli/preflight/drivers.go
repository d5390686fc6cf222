package preflight

import (
	"context"

	"github.com/keyturn/keyturn/internal/podtokens/drivers"
)

// drivers reads which CSI drivers get tokens of the pods that use their volumes.
func (i *inspection) drivers(ctx context.Context) error {
	found, err := drivers.ReadDrivers(ctx, i.client, i.pageSize)
	i.cluster.Drivers = found.Drivers
	return err
}
