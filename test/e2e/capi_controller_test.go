package e2e

import (
	"context"
	"syscall"
	"time"

	"github.com/keyturn/keyturn/internal/local/process"
)

// capiController is the controller of a test, as a process.
type capiController struct {
	dir  string
	spec process.Spec
}

// runner remembers nothing, so that a program that is killed often is started at once.
func (c capiController) runner() *process.Runner { return process.New(c.dir) }

func (c capiController) start() error { return c.runner().Start(c.spec) }

// kill ends it as a crash does.
func (c capiController) kill(ctx context.Context) error {
	if err := c.runner().Signal(c.spec.Name, syscall.SIGKILL); err != nil {
		return err
	}
	return c.runner().Await(ctx, c.spec.Name, 10*time.Second)
}

// stop ends it, and shows what it said if the test failed.
func (c capiController) stop(k *capiCluster) {
	err := c.runner().Await(context.Background(), c.spec.Name, 10*time.Second)
	if k.t.Failed() {
		k.t.Logf("the controller says:\n%s", c.runner().LastLines(c.spec.Name, 40))
	}
	k.Must(err)
}
