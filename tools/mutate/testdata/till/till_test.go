package till

import (
	"errors"
	"testing"
)

func TestSum(t *testing.T) {
	if got := Sum([]int{3, -1, 4}); got != 7 {
		t.Errorf("Sum = %d", got)
	}
}

func TestPay(t *testing.T) {
	opens := func() error { return nil }
	broken := errors.New("broken")
	if _, err := Pay(5, 5, func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("with a broken till: %v", err)
	}
	if r, err := Pay(5, 5, opens); err != nil || r != (Receipt{Total: 5, Paid: true}) {
		t.Errorf("Pay = %v, %v", r, err)
	}
	if _, err := Pay(5, 4, opens); err == nil {
		t.Error("paid with too little")
	}
	if r, err := Pay(5, 100, opens); err != nil || r.Paid {
		t.Errorf("Pay = %v, %v", r, err)
	}
}
