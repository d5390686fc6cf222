package legacytoken

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// numbers is a list of 0 to 9 in pages of three. Each error is returned once, by the request with its continue token.
func numbers(errs map[string]error) *pages[int] {
	list := func(ctx context.Context, o metav1.ListOptions) ([]int, string, error) {
		if err := errs[o.Continue]; err != nil {
			delete(errs, o.Continue)
			return nil, "", err
		}
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		from, _ := strconv.Atoi(o.Continue)
		var items []int
		for i := from; i < min(from+int(o.Limit), 10); i++ {
			items = append(items, i)
		}
		if from+int(o.Limit) >= 10 {
			return items, "", nil
		}
		return items, strconv.Itoa(from + int(o.Limit)), nil
	}
	return &pages[int]{what: "numbers", list: list, limit: 3}
}

func expired(next string) error {
	err := apierrors.NewResourceExpired("too old")
	err.ErrStatus.Continue = next
	return err
}

func TestPages(t *testing.T) {
	failure := errors.New("failure")
	tests := map[string]struct {
		errs map[string]error
		want []int
		errN int // how many reads fail
	}{
		"all":                 {nil, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 0},
		"failure":             {map[string]error{"3": failure}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 1},
		"failure at first":    {map[string]error{"": failure}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 1},
		"expired, goes on":    {map[string]error{"6": expired("7")}, []int{0, 1, 2, 3, 4, 5, 7, 8, 9}, 0},
		"expired, same token": {map[string]error{"6": expired("6")}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 0},
		"expired, anew":       {map[string]error{"6": expired("")}, []int{0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := numbers(test.errs)
			var got []int
			failed := 0
			for !p.end() {
				items, err := p.read(t.Context())
				if err != nil {
					failed++
				}
				got = append(got, items...)
			}
			if !slices.Equal(got, test.want) || failed != test.errN {
				t.Errorf("read %v with %d errors, want %v with %d", got, failed, test.want, test.errN)
			}
		})
	}
}

// TestPagesCancelled ends the context of a pass after its first page. The next pass reads on.
func TestPagesCancelled(t *testing.T) {
	p := numbers(nil)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := p.read(ctx); err != nil {
		t.Fatal(err)
	}
	p.settle()
	cancel()
	for want := 3; !p.end(); want += 3 {
		items, err := p.read(t.Context())
		if err != nil || items[0] != want {
			t.Fatalf("read %v, %v, want from %d on", items, err, want)
		}
	}
	refused := numbers(map[string]error{"": expired("")})
	if _, err := refused.read(t.Context()); err == nil || errors.Is(err, errRestart) {
		t.Errorf("the first page has expired, which cannot be: %v", err)
	}
	ended := numbers(nil)
	if _, err := ended.read(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("read with an ended context: %v", err)
	}
}

// TestPageAheadOfAPassThatEnds ends a pass while the next page is read ahead for it. The next pass reads that page.
func TestPageAheadOfAPassThatEnds(t *testing.T) {
	p := numbers(nil)
	ctx, cancel := context.WithCancel(t.Context())
	list := p.list
	var running atomic.Int32
	begun := make(chan struct{})
	p.list = func(c context.Context, o metav1.ListOptions) ([]int, string, error) {
		running.Add(1)
		defer running.Add(-1)
		if c == ctx && o.Continue != "" {
			close(begun)
			<-c.Done()
		}
		return list(c, o)
	}
	p.settle() // nothing is under way yet
	if _, err := p.read(ctx); err != nil {
		t.Fatal(err)
	}
	<-begun
	cancel()
	if p.settle(); running.Load() > 0 {
		t.Error("a page is still being read")
	}
	if items, err := p.read(t.Context()); err != nil || !slices.Equal(items, []int{3, 4, 5}) {
		t.Errorf("read %v, %v, want the second page", items, err)
	}
}

func TestWriteOrder(t *testing.T) {
	for _, test := range []struct {
		notified string
		before   bool
	}{
		{"", true}, {"2", true}, {"x.9", true}, {"1.99", true}, {"2.9", true}, {"2.10", false}, {"2.11", false},
		{"3.1", false},
	} {
		if got := parseWrite(test.notified).before(write{version: 2, resourceVersion: 10}); got != test.before {
			t.Errorf("%q is before 2.10: %v, want %v", test.notified, got, test.before)
		}
	}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "34"}}
	if w := writeOf(12, s); w.String() != "12.34" || parseWrite("12.34") != w {
		t.Errorf("%q is not 12.34, or not read back", w)
	}
	for _, bad := range []string{"", "2", "2.x", "x.9", "2.-1"} {
		if w := parseWrite(bad); w != (write{}) {
			t.Errorf("%q is read as %s", bad, w)
		}
	}
}

func TestColumn(t *testing.T) {
	all := []item[int]{{"a-b", "x", 1}, {"a", "x", 2}, {"a", "x", 3}, {"a", "y", 4}, {"a0", "x", 5}, {"c", "z", 6}}
	list := func(_ context.Context, o metav1.ListOptions) ([]item[int], string, error) {
		i, _ := strconv.Atoi(o.Continue)
		if i+1 == len(all) {
			return all[i:], "", nil
		}
		return all[i : i+1], strconv.Itoa(i + 1), nil
	}
	c := &column[int]{pages: &pages[item[int]]{what: "items", list: list, limit: 1}}
	for _, want := range []struct {
		namespace, name string
		values          []int
	}{
		{"a", "x", []int{2, 3}}, {"a", "y", []int{4}}, {"a", "z", nil}, {"a0", "x", []int{5}}, {"b", "x", nil},
		{"c", "z", []int{6}}, {"d", "z", nil},
	} {
		values, err := c.in(t.Context(), want.namespace)
		if err != nil || !slices.Equal(values[want.name], want.values) {
			t.Errorf("%s/%s = %v, %v, want %v", want.namespace, want.name, values[want.name], err, want.values)
		}
	}
}

// TestColumnGoesOn asks for a namespace again after an error, and has the list begin again in the middle of one: each
// item is there once.
func TestColumnGoesOn(t *testing.T) {
	failure := errors.New("failure")
	all := []item[int]{{"a", "x", 1}, {"b", "x", 2}, {"b", "x", 3}, {"b", "y", 4}, {"c", "x", 5}}
	for name, test := range map[string]struct {
		err   error // of the request that would go on in namespace b
		fails bool
	}{
		"no error": {nil, false}, "failure": {failure, true}, "expired": {expired(""), false},
	} {
		left := test.err
		list := func(_ context.Context, o metav1.ListOptions) ([]item[int], string, error) {
			i, _ := strconv.Atoi(o.Continue)
			if i == 2 && left != nil {
				err := left
				left = nil
				return nil, "", err
			}
			if i+1 == len(all) {
				return all[i:], "", nil
			}
			return all[i : i+1], strconv.Itoa(i + 1), nil
		}
		c := &column[int]{pages: &pages[item[int]]{what: "items", list: list, limit: 1}}
		if _, err := c.in(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		values, err := c.in(t.Context(), "b")
		if (err != nil) != test.fails || test.fails && !errors.Is(err, failure) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			values, err = c.in(t.Context(), "b")
		}
		if err != nil || !slices.Equal(values["x"], []int{2, 3}) || !slices.Equal(values["y"], []int{4}) {
			t.Errorf("%s: %v, %v", name, values, err)
		}
	}
}
