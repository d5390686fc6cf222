// Package till has one fault of each kind that its tests notice, and one that they do not.
package till

import (
	"errors"
	"fmt"
)

// Sum is noticed in all it does, except that nothing is known of an empty list.
func Sum(prices []int) (total int) {
	for _, p := range prices {
		if p < 0 {
			continue
		}
		total += p
	}
	return total
}

// Receipt is a result.
type Receipt struct {
	Total int
	Paid  bool
	Note  string
}

// Pay returns a receipt that is paid for if the money is enough.
func Pay(total, money int, open func() error) (Receipt, error) {
	if err := open(); err != nil {
		return Receipt{}, fmt.Errorf("opening till: %w", err)
	}
	switch {
	case money < total && total > 1:
		return Receipt{}, errors.New("not enough")
	case money-total > 50:
		return Receipt{Total: total, Note: "much change"}, check(money)
	}
	return Receipt{Total: total, Paid: true}, nil
}

func check(money int) error {
	if money > 1000 {
		return errors.New("too much")
	}
	return nil
}

// Close is not tested.
func Close() bool { return true }
