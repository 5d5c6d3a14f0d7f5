// Searches one module and view of an exported release:  reader DIR DIM EF_SEARCH K < QUERY
// DIR is, for example, export/search/fused; DIM and EF_SEARCH stand in manifest.json; QUERY is DIM float32 of length 1.
// Compile with hnswlib 0.8.0's headers:  g++ -O2 -std=c++17 -pthread -I hnswlib reader.cpp -o reader
// Run `samestyle releases verify --dir` on the export first: hnswlib itself notices no damage.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <tuple>
#include <vector>
#include "hnswlib/hnswlib.h"

using Labels = std::vector<std::vector<std::string>>;  // the living items of each node

// The value of a field of a JSON line: a number or word as it stands, a string without quotes and escaped quotes.
std::string field(const std::string& line, const std::string& name) {
    size_t at = line.find("\"" + name + "\": ") + name.size() + 4;
    std::string value;
    if (line[at] != '"') return line.substr(at, line.find_first_of(",}", at) - at);
    for (++at; line[at] != '"'; ++at) {
        if (line[at] == '\\') ++at;
        value += line[at];
    }
    return value;
}

struct Shard {
    hnswlib::InnerProductSpace space;
    std::unique_ptr<hnswlib::HierarchicalNSW<float>> graph;
    Labels members;
    size_t living = 0;

    Shard(const std::string& stem, size_t dim, size_t ef) : space(dim) {
        graph = std::make_unique<hnswlib::HierarchicalNSW<float>>(&space, stem + ".hnsw");
        graph->setEf(ef);
        members.resize(graph->getCurrentElementCount());
        std::ifstream items(stem + ".items.jsonl");
        for (std::string line; std::getline(items, line);)
            if (field(line, "alive") == "true")
                members.at(std::stoul(field(line, "label"))).push_back(field(line, "item_id"));
        for (size_t label = 0; label < members.size(); ++label) {
            if (members[label].empty()) graph->markDelete(label);  // a node without a living item is not found
            else ++living;
        }
    }
};

int main(int count, char** words) {
    if (count != 5) return std::cerr << "reader DIR DIM EF_SEARCH K < QUERY\n", 2;
    const size_t dim = std::stoul(words[2]), ef = std::stoul(words[3]), k = std::stoul(words[4]);
    std::vector<float> query(dim);
    if (!std::cin.read(reinterpret_cast<char*>(query.data()), dim * sizeof(float)))
        return std::cerr << "the query has fewer than " << dim << " numbers\n", 2;
    std::vector<std::tuple<float, std::string>> found;  // distance, item
    for (const auto& file : std::filesystem::directory_iterator(words[1])) {
        if (file.path().extension() != ".hnsw") continue;
        Shard shard(file.path().parent_path() / file.path().stem(), dim, std::max(ef, k));
        auto nearest = shard.graph->searchKnn(query.data(), std::min(k, shard.living));
        for (; !nearest.empty(); nearest.pop())
            for (const auto& item : shard.members[nearest.top().second]) found.emplace_back(nearest.top().first, item);
    }
    std::sort(found.begin(), found.end());  // equal distances by item id
    for (size_t n = 0; n < std::min(k, found.size()); ++n)
        std::cout << std::get<1>(found[n]) << "\t" << 1 - std::get<0>(found[n]) << "\n";
}
