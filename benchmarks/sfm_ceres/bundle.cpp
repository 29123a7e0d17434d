// Bundle adjustment of a BAL file by Ceres, to compare with: one JSON object on standard output.
//
//   bundle FILE [--solver dense|sparse|iterative] [--threads 1] [--iterations 50] [--radius 1e4]
//               [--ftol 1e-6] [--eta 0.1] [--huber 0]
//
// The cost is differentiated automatically, as people do who follow the tutorial of Ceres; points
// come first in the elimination; the scene is centred and scaled (median 0, mean deviation 100), as
// Ceres' own example does by default. CPU seconds are those of the whole process, all threads.

#include <ceres/ceres.h>
#include <ceres/rotation.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace {

double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

struct Scene {
  std::vector<int> camera, point;
  std::vector<double> seen;     // 2 per observation, pixels
  std::vector<double> cameras;  // 9 each: rotation vector, translation, f, k1, k2
  std::vector<double> points;   // 3 each
};

bool read(const std::string& path, Scene& scene) {
  std::ifstream file(path);
  size_t cameras, points, observations;
  if (!(file >> cameras >> points >> observations)) return false;
  scene.camera.resize(observations);
  scene.point.resize(observations);
  scene.seen.resize(2 * observations);
  scene.cameras.resize(9 * cameras);
  scene.points.resize(3 * points);
  for (size_t i = 0; i < observations; ++i)
    file >> scene.camera[i] >> scene.point[i] >> scene.seen[2 * i] >> scene.seen[2 * i + 1];
  for (double& value : scene.cameras) file >> value;
  for (double& value : scene.points) file >> value;
  return static_cast<bool>(file);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + values.size() / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// X becomes s (X - m), and so does the centre -R't of each camera: t becomes s (t + R m).
void normalise(Scene& scene) {
  const size_t n = scene.points.size() / 3;
  double middle[3];
  std::vector<double> values(n);
  for (int axis = 0; axis < 3; ++axis) {
    for (size_t i = 0; i < n; ++i) values[i] = scene.points[3 * i + axis];
    middle[axis] = median(values);
  }
  for (size_t i = 0; i < n; ++i) {
    values[i] = 0;
    for (int axis = 0; axis < 3; ++axis)
      values[i] += std::abs(scene.points[3 * i + axis] - middle[axis]);
  }
  const double scale = 100 / median(values);
  for (size_t i = 0; i < scene.points.size(); ++i)
    scene.points[i] = scale * (scene.points[i] - middle[i % 3]);
  for (size_t i = 0; i < scene.cameras.size(); i += 9) {
    double turned[3];
    ceres::AngleAxisRotatePoint(&scene.cameras[i], middle, turned);
    for (int axis = 0; axis < 3; ++axis)
      scene.cameras[i + 3 + axis] = scale * (scene.cameras[i + 3 + axis] + turned[axis]);
  }
}

// r = f (1 + k1 |p|^2 + k2 |p|^4) p - seen, with P = R X + t and p = -(P_x, P_y) / P_z.
struct Reprojection {
  double u, v;

  template <typename T>
  bool operator()(const T* camera, const T* point, T* residual) const {
    T P[3];
    ceres::AngleAxisRotatePoint(camera, point, P);
    for (int axis = 0; axis < 3; ++axis) P[axis] += camera[3 + axis];
    const T x = -P[0] / P[2], y = -P[1] / P[2];
    const T square = x * x + y * y;
    const T factor = camera[6] * (1.0 + square * (camera[7] + camera[8] * square));
    residual[0] = factor * x - u;
    residual[1] = factor * y - v;
    return true;
  }
};

}  // namespace

int main(int count, char** arguments) {
  std::map<std::string, std::string> option = {
      {"--solver", "dense"}, {"--threads", "1"}, {"--iterations", "50"}, {"--radius", "1e4"},
      {"--ftol", "1e-6"},    {"--eta", "0.1"},   {"--huber", "0"}};
  for (int i = 2; i + 1 < count; i += 2) {
    if (!option.count(arguments[i])) {
      std::fprintf(stderr, "there is no option %s\n", arguments[i]);
      return 2;
    }
    option[arguments[i]] = arguments[i + 1];
  }
  Scene scene;
  if (count < 2 || !read(arguments[1], scene)) {
    std::fprintf(stderr, "give a BAL file, plain text\n");
    return 2;
  }
  normalise(scene);

  const double begin = cpu_seconds();
  ceres::Problem problem;
  const double huber = std::atof(option["--huber"].c_str());
  auto ordering = std::make_shared<ceres::ParameterBlockOrdering>();
  for (size_t i = 0; i < scene.camera.size(); ++i) {
    double* camera = &scene.cameras[9 * scene.camera[i]];
    double* point = &scene.points[3 * scene.point[i]];
    problem.AddResidualBlock(new ceres::AutoDiffCostFunction<Reprojection, 2, 9, 3>(
                                 new Reprojection{scene.seen[2 * i], scene.seen[2 * i + 1]}),
                             huber > 0 ? new ceres::HuberLoss(huber) : nullptr, camera, point);
    ordering->AddElementToGroup(point, 0);
    ordering->AddElementToGroup(camera, 1);
  }
  ceres::Solver::Options options;
  const std::map<std::string, ceres::LinearSolverType> solvers = {
      {"dense", ceres::DENSE_SCHUR},
      {"sparse", ceres::SPARSE_SCHUR},
      {"iterative", ceres::ITERATIVE_SCHUR}};
  if (!solvers.count(option["--solver"])) {
    std::fprintf(stderr, "--solver is dense, sparse or iterative\n");
    return 2;
  }
  options.linear_solver_type = solvers.at(option["--solver"]);
  options.preconditioner_type = ceres::SCHUR_JACOBI;
  options.linear_solver_ordering = ordering;
  options.num_threads = std::atoi(option["--threads"].c_str());
  options.max_num_iterations = std::atoi(option["--iterations"].c_str());
  options.initial_trust_region_radius = std::atof(option["--radius"].c_str());
  options.function_tolerance = std::atof(option["--ftol"].c_str());
  options.eta = std::atof(option["--eta"].c_str());
  options.gradient_tolerance = 0;
  options.parameter_tolerance = 0;
  options.logging_type = ceres::SILENT;
  ceres::Solver::Summary summary;
  const double middle = cpu_seconds();
  ceres::Solve(options, &problem, &summary);
  const double end = cpu_seconds();

  int linear = 0;
  for (const auto& each : summary.iterations) linear += each.linear_solver_iterations;
  std::printf(
      "{\"version\": \"%s\", \"solver\": \"%s\", \"threads\": %d, \"initial_cost\": %.9e, "
      "\"cost\": %.9e, \"iterations\": %d, \"rejected\": %d, \"linear_iterations\": %d, "
      "\"build_cpu_seconds\": %.6f, \"cpu_seconds\": %.6f, \"seconds\": %.6f}\n",
      CERES_VERSION_STRING, option["--solver"].c_str(), summary.num_threads_used,
      summary.initial_cost, summary.final_cost,
      summary.num_successful_steps + summary.num_unsuccessful_steps - 1,
      summary.num_unsuccessful_steps, linear, middle - begin, end - middle,
      summary.total_time_in_seconds);
  return summary.IsSolutionUsable() ? 0 : 1;
}
