package controller

import (
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// Options are how often and how long a Reconciler works on clusters. Zero fields mean their defaults.
type Options struct {
	// SettledInterval is how long after a round a settled cluster is proven again, plus or minus a fifth. Wakes start
	// rounds earlier when something died.
	SettledInterval time.Duration
	// Workers is how many rounds work at once. A round that waits for its cluster, or for a destination, does not
	// count.
	Workers int
	// RoundTimeout limits one round for one cluster, without the write of its status.
	RoundTimeout time.Duration
}

// The defaults of Options.
const (
	DefaultSettledInterval = 10 * time.Minute
	DefaultWorkers         = 8
	DefaultRoundTimeout    = time.Minute
)

// Lower limits of Options. Below them, rounds fail that would only need their time.
const (
	minSettledInterval = time.Second
	minRoundTimeout    = 20 * time.Second
	minWorkers         = 1
)

// Validate returns an error with everything that is wrong with o.
func (o Options) Validate() error {
	o = o.withDefaults()
	var errs []error
	if o.SettledInterval < minSettledInterval {
		errs = append(errs, fmt.Errorf("the settled interval is %s, but must be at least %s",
			o.SettledInterval, minSettledInterval))
	}
	if o.Workers < minWorkers {
		errs = append(errs, fmt.Errorf("the number of workers is %d, but must be at least %d", o.Workers, minWorkers))
	}
	if o.RoundTimeout < minRoundTimeout {
		errs = append(errs, fmt.Errorf("the timeout of a round is %s, but must be at least %s",
			o.RoundTimeout, minRoundTimeout))
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	if o.SettledInterval == 0 {
		o.SettledInterval = DefaultSettledInterval
	}
	if o.Workers == 0 {
		o.Workers = DefaultWorkers
	}
	if o.RoundTimeout == 0 {
		o.RoundTimeout = DefaultRoundTimeout
	}
	return o
}

// settledPause returns the settled interval, plus or minus a fifth, so that clusters that were all proven at once after
// a start do not stay together.
func (o Options) settledPause() time.Duration {
	const fifth = 0.2
	interval := float64(o.withDefaults().SettledInterval)
	return wait.Jitter(time.Duration(interval*(1-fifth)), 2*fifth/(1-fifth))
}
