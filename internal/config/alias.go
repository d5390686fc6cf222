package config

import (
	"iter"

	"go.yaml.in/yaml/v3"
)

// follow returns the node that an alias refers to, and any other node unchanged.
func (d *decoder) follow(path string, n *yaml.Node) *yaml.Node {
	if n.Kind != yaml.AliasNode {
		return n
	}
	if d.expanded += size(n.Alias, maxExpanded-d.expanded); d.expanded > maxExpanded {
		d.problem(path, "the aliases of the file expand to more than %d values; write some of them out", maxExpanded)
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	}
	return n.Alias
}

// size counts n and the nodes below it. It stops soon after limit.
func size(n *yaml.Node, limit int) int {
	count := 1
	for _, child := range n.Content {
		if count > limit {
			break
		}
		count += size(child, limit-count)
	}
	return count
}

// entries yields the keys and values of a mapping. Entries of a merge key come last, without keys that came before.
func (d *decoder) entries(path string, n *yaml.Node) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(key, value *yaml.Node) bool) {
		own := map[string]bool{}
		var merged []*yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if key.ShortTag() == "!!merge" {
				merged = append(merged, d.merged(path, value)...)
				continue
			}
			own[key.Value] = true
			if !yield(key, value) {
				return
			}
		}
		for _, m := range merged {
			for key, value := range d.entries(path, m) {
				if own[key.Value] {
					continue
				}
				own[key.Value] = true
				if !yield(key, value) {
					return
				}
			}
		}
	}
}

// merged returns the mappings that the value of a merge key names: one, or a list in which the first with a key wins.
func (d *decoder) merged(path string, value *yaml.Node) []*yaml.Node {
	value = d.follow(path, value)
	switch value.Kind {
	case yaml.MappingNode:
		return []*yaml.Node{value}
	case yaml.SequenceNode:
		var all []*yaml.Node
		for _, item := range value.Content {
			if item = d.follow(path, item); item.Kind == yaml.MappingNode {
				all = append(all, item)
				continue
			}
			d.problem(path, "merges %s; only mappings can be merged", describe(item))
		}
		return all
	case yaml.ScalarNode:
		if isNull(value) {
			return nil
		}
	}
	d.problem(path, "merges %s; only mappings can be merged", describe(value))
	return nil
}
